"""Objectives that teach an order of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.losses.ranking import pld
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Step


@dataclass(frozen=True)
class PLD(Objective):
    """The label first, then the teacher's order of the other classes, by the Plackett-Luce model; over the labelled
    examples, and in place of cross-entropy (Bassam et al. 2025)."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        pair = step.student("x").logits, step.teacher("x").logits
        return {"pld": Term(pld(*pair, step.y, tau=self.tau), where="labelled")}
