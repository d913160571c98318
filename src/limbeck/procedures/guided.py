"""Self-distillation with the truth as a guide: how much truth is best, and kernel ridge regression, where all of it is
known in closed form (Borup & Andersen 2021, "Even your Teacher Needs Guidance").

alpha is the weight of the truth here, and 1 - alpha that of the previous generation.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.data import Data
from limbeck.errors import DataError
from limbeck.methods.self_ import even_your_teacher
from limbeck.procedures.chain import within
from limbeck.run import Run
from limbeck.targets import mix, one_hot


def best_alpha(truth: Float[Tensor, "n c"], past: Float[Tensor, "n c"], y: Float[Tensor, "n c"]) -> float:
    """The alpha in [0, 1] whose alpha truth + (1 - alpha) past is nearest to y on held-out examples: <y - past, truth -
    past> / ||truth - past||^2 before clipping; 1 where both are equal.

    truth, past: predictions of the fit to the truth alone, and of that to the previous generation alone.
    """
    way = truth - past
    size = way.square().sum()
    return float(((y - past) * way).sum().div(size).clamp(0, 1)) if size > 0 else 1.0


def with_best_alpha(run: Run, held_out: Data, *, resume: bool = False) -> Run:
    """One generation, which is the run with method `even_your_teacher(alpha=...)`: train a copy of the student for the
    truth alone and one for the teacher alone, take `best_alpha` of the two on the held-out examples, and train the
    student with it. The finished run.

    The estimator for networks as the catalogue reads it; a fit of a network is not linear in its targets, so that it
    is an estimate. All three start alike.
    """
    if held_out.y is None:
        raise DataError("the best alpha is found by labels: give Data(x, y)")
    said = []
    for alpha, name in ((1.0, "truth"), (0.0, "past")):
        method = even_your_teacher(alpha=alpha)
        part = replace(run, student=copy.deepcopy(run.student), method=method, folder=within(run, name))
        part.fit(resume=resume)
        said.append(part.predict(part.students[0], held_out).softmax(-1))
    truth, past = said
    alpha = best_alpha(truth, past, one_hot(held_out.y, truth.shape[-1]))
    whole = replace(run, method=even_your_teacher(alpha=alpha), folder=within(run, "mixed"))
    whole.fit(resume=resume)
    return whole


def ridge_generations(
    kernel: Float[Tensor, "n n"], y: Float[Tensor, "n c"], *, ridge: float, alpha: float, steps: int
) -> Float[Tensor, "steps n c"]:
    """Predictions on the training examples of `steps` generations of kernel ridge regression, one after the other;
    the first fits y, the others alpha y + (1 - alpha) the one before."""
    smoother = torch.linalg.solve(kernel + ridge * torch.eye(len(kernel)).to(kernel), kernel)  # they commute
    fits = [smoother @ y]
    for _ in range(steps - 1):
        fits.append(smoother @ mix(fits[-1], y, alpha))
    return torch.stack(fits)


def ridge_generation(
    kernel: Float[Tensor, "n n"], y: Float[Tensor, "n c"], *, ridge: float, alpha: float, step: int | None
) -> Float[Tensor, "n c"]:
    """The generation number `step` (from 1) at once, by the kernel's eigenvalues; None: the limit, which for alpha > 0
    is the ordinary fit with the ridge / alpha, and 0 for alpha = 0."""
    values, vectors = torch.linalg.eigh(kernel)
    a = values / (values + ridge)
    rate = (1 - alpha) * a
    if step is None:
        gain = a * alpha / (1 - rate)
    else:
        powers = torch.stack([rate**i for i in range(step)])
        gain = a * (alpha * powers[:-1].sum(0) + powers[-1])
    fit: Tensor = vectors @ (gain[:, None] * (vectors.T @ y))
    return fit
