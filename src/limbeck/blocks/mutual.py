"""Objectives of students that teach each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Step


@dataclass(frozen=True)
class Peers(Objective):
    """Each student learns from the labels and from the mean KL to its peers, whose predictions are targets without
    gradient (Zhang et al. 2018, equations 5-9). All students take their step at once."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        if len(step.students) < 2:
            raise SettingError("peers need two students or more: Run(student=[a, b]), or --student resnet8,resnet8")
        logits = [student("x").logits for student in step.students]
        terms: dict[str, Any] = {}
        for i, own in enumerate(logits):
            others = [kl(own, other.detach(), tau=self.tau) for j, other in enumerate(logits) if j != i]
            terms[f"ce/{i}"] = Term(cross_entropy(own, step.y), where="labelled")
            terms[f"peers/{i}"] = sum(others) / len(others)
        return terms
