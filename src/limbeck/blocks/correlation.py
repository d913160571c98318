"""Objectives that ask for equal order and proportion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from limbeck.losses.correlation import dist
from limbeck.objective import Objective, Terms
from limbeck.step import Step


@dataclass(frozen=True)
class DIST(Objective):
    """Correlation of student and teacher between the classes of an example, and between the batch's examples in a
    class (Huang et al. 2022)."""

    couples: ClassVar[bool] = True

    beta: float = 1.0
    gamma: float = 1.0
    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        pair = step.student("x").logits, step.teacher("x").logits
        return {"dist": dist(*pair, beta=self.beta, gamma=self.gamma, tau=self.tau)}
