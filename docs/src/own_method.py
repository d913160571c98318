"""A method in one file: match the teacher's logits up to a constant, by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck import CE, Objective, Step, method


@dataclass(frozen=True)
class CenteredMSE(Objective):
    """Squared difference of logits whose mean over the classes is taken off (Ba & Caruana 2014, up to the centring)."""

    def loss(self, step: Step, state: Any) -> dict[str, Any]:
        student, teacher = (model("x").logits for model in (step.student, step.teacher))
        difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
        return {"mse": difference.square().mean(1)}


@method(paper="Ba & Caruana 2014, arXiv:1312.6184", needs=("teacher",))
def centered_mse(*, weight: float = 1.0) -> Objective:
    """Match the teacher's logits by least squares.

    loss = CE(y, q) + weight mean_c (z_c - mean z - t_c + mean t)^2
    """
    return CE() + weight * CenteredMSE()
