"""Augmentations that learn where student and teacher disagree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.data import Batch
from limbeck.data.draws import normal
from limbeck.errors import SettingError
from limbeck.evaluate import evaluating
from limbeck.losses.logit import kl
from limbeck.objective import Objective, Terms
from limbeck.step import Step
from limbeck.teachers import Frozen

if TYPE_CHECKING:
    from limbeck.run import Run


class Affine(nn.Module):
    """Images (b, c, h, w) rotated, shifted, scaled and sheared at random; the six means and deviations are learnt.

    noise: (b, 6) standard normal, for the angle (radians), the shift right and down (half images), the logarithms of
    the scales and the shear. moves: which of them are used. Beyond the border its pixels are repeated.

    Each number z becomes limit * sin(z / limit), so that the image is never lost: no gradient leads back from there.
    The deviations themselves are learnt, not their logarithms. They start at more than a pixel of a small image: a
    shift by less only blurs it, which brings student and teacher nearer, so that it would be unlearnt.
    """

    LIMITS: ClassVar[dict[str, float]] = {
        "rotate": math.pi,
        "right": 1.0,
        "down": 1.0,
        "wide": math.log(2),
        "high": math.log(2),
        "shear": 1.0,
    }

    used: Tensor
    limits: Tensor

    def __init__(self, moves: tuple[str, ...] = tuple(LIMITS), *, deviation: float = 0.2) -> None:
        super().__init__()
        if unknown := set(moves) - set(self.LIMITS):
            raise SettingError(f"an affine map has {', '.join(self.LIMITS)}; got {sorted(unknown)}")
        self.mean, self.deviation = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.full((6,), deviation))
        self.register_buffer("used", torch.tensor([float(name in moves) for name in self.LIMITS]), persistent=False)
        self.register_buffer("limits", torch.tensor(list(self.LIMITS.values())), persistent=False)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        numbers = self.used * self.limits * torch.sin((self.mean + self.deviation * noise) / self.limits)
        angle, right, down, wide, high, shear = numbers.unbind(1)
        cos, sin, wide, high = angle.cos(), angle.sin(), wide.exp(), high.exp()
        # rotation @ shear @ scales, and the shift
        first = torch.stack([cos * wide, (cos * shear - sin) * high, right], 1)
        second = torch.stack([sin * wide, (sin * shear + cos) * high, down], 1)
        grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid.to(x), padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class HARD(Objective):
    """KL to the teacher on the view "x" and on learnt affine distortions of it; after `every` steps of the student the
    distortions take one, towards where the student is far from the teacher and the teacher near to what it says of the
    undistorted image (Nix et al. 2023, HARD-Affine).

    The distortions' loss: steady D(teacher(x), teacher(x~)) - disagree D(teacher(x~), student(x~)), D the KL with
    temperature tau. moves: which distortions are learnt.

    Only the abstract is known to us: the weights, the turns (there perhaps by bounds of the loss), the form and the
    start of `Affine`, and that the run's optimiser moves it, are ours; with SGD the two weights set its speed. In the
    distortions' turn both nets are in eval mode and nothing else moves. HARD-Mix and HARD-VDVAE are not here.
    """

    tau: float
    disagree: float
    steady: float
    every: int
    moves: tuple[str, ...] = tuple(Affine.LIMITS)

    def init(self, run: Run) -> nn.Module:
        if len(run.teachers) == 1 and not isinstance(run.teachers[0], Frozen):
            raise SettingError("HARD needs gradients through the teacher: give a model, no record or average")
        return Affine(self.moves)

    def distorted(self, step: Step, state: Any, x: Tensor) -> Tensor:
        noise = normal(step.run.seed, step.index, epoch=step.run.steps_done, stream="hard", n=6)
        return state(x, noise)  # type: ignore[no-any-return]

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        batch.made["hard"] = self.distorted(step, state, batch.view("x"))
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        if step.run.steps_done % (self.every + 1) < self.every:
            return {
                "kl" + ("" if view == "x" else "/hard"): kl(
                    step.student(view).logits, step.teacher(view).logits, tau=self.tau
                )
                for view in ("x", "hard")
            }
        x = self.distorted(step, state, step.view("x"))
        teacher, student = step.run.teachers[0].net, step.run.students[0]
        still = {name: tensor.detach() for name, tensor in student.named_parameters()}
        with evaluating(teacher, student):
            said = teacher(x).logits
            disagreement = kl(torch.func.functional_call(student, still, (x,)).logits, said, tau=self.tau)
        shift = kl(said, step.teacher("x").logits, tau=self.tau)
        return {"distortion": self.steady * shift - self.disagree * disagreement}
