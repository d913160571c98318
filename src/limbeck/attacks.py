"""Small changes of an input that change a model's mind: a study of what a defence defends against.

All take inputs x (b, ...) in [0, 1] and true classes y (b,), and return changed inputs in [0, 1]. The model is asked in
the mode that it is in. A model may hide its gradient, as by saturated probabilities: report `margin_step` or `cw_l2`,
which look at logits, beside `fgsm`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.logit import cross_entropy

Model = Callable[[Tensor], Any]


def logits_of(model: Model, x: Tensor) -> Tensor:
    output = model(x)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(b,) the true class's logit minus the largest other one; negative where the model errs."""
    true = logits.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return true - logits.scatter(-1, y.unsqueeze(-1), -torch.inf).amax(-1)


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float, tau: float = 1.0) -> Tensor:
    """One step of eps along the sign of the gradient of the cross-entropy at temperature tau (Goodfellow et al. 2015).
    With a model trained at a temperature, tau undoes the saturation."""
    return sign_step(lambda x: cross_entropy(logits_of(model, x) / tau, y), x, eps)


def margin_step(model: Model, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """As fgsm, along the gradient of the margin between logits, which does not saturate."""
    return sign_step(lambda x: -margin(logits_of(model, x), y), x, eps)


def sign_step(loss: Callable[[Tensor], Tensor], x: Tensor, eps: float) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


def cw_l2(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    kappa: float = 0.0,
    steps: int = 100,
    searches: int = 5,
    lr: float = 0.01,
    c_range: tuple[float, float] = (1e-2, 1e2),
) -> Tensor:
    """The nearest input by Euclidean distance that is taken for another class: of (tanh(w) + 1) / 2, minimise
    ||x' - x||^2 + c max(margin, -kappa) over w by Adam, for each example with the smallest c that succeeds (Carlini &
    Wagner 2017, untargeted L2). Where none does, x itself.

    kappa: the margin to win by. c is bisected `searches` times on a logarithmic scale within c_range.
    """
    low, high = (torch.full(y.shape, edge, device=x.device) for edge in c_range)
    start = ((2 * x - 1) * (1 - 1e-6)).atanh().detach()
    best, nearest = x.clone(), torch.full(y.shape, torch.inf, device=x.device)
    for _ in range(searches):
        c = (low * high).sqrt()
        w = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=lr)
        won = torch.zeros_like(y, dtype=torch.bool)
        for _ in range(steps):
            with torch.enable_grad():
                changed = (w.tanh() + 1) / 2
                distance = (changed - x).square().flatten(1).sum(1)
                gap = margin(logits_of(model, changed), y)
                (w.grad,) = torch.autograd.grad((distance + c * gap.clamp(min=-kappa)).sum(), w)
            success = (gap < 0) & (gap <= -kappa)
            better = success & (distance < nearest)
            best = torch.where(better.view(-1, *[1] * (x.dim() - 1)), changed, best).detach()
            nearest = torch.where(better, distance, nearest).detach()
            won |= success
            optimizer.step()
        low, high = torch.where(won, low, c), torch.where(won, c, high)
    return best
