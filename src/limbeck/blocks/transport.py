"""Objectives by optimal transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from limbeck.losses.transport import sinkhorn_distance
from limbeck.objective import Objective, Terms
from limbeck.step import Step


@dataclass(frozen=True)
class Sinkhorn(Objective):
    """What it costs to carry the students' distributions of a batch to the teachers', whichever of the batch they
    belong to (Cui et al. 2024, SinKD). The authors sum over the batch; here it is the mean, so a weight of theirs
    becomes weight * batch size."""

    couples: ClassVar[bool] = True

    tau: float = 2.0
    eps: float = 0.1
    iters: int = 20

    def loss(self, step: Step, state: Any) -> Terms:
        pair = step.student("x").logits, step.teacher("x").logits
        return {"sinkhorn": sinkhorn_distance(*pair, tau=self.tau, eps=self.eps, iters=self.iters)}
