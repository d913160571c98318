"""Objectives on class logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from limbeck.errors import SettingError
from limbeck.losses.inputs import wide
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Step
from limbeck.targets import pooled
from limbeck.tiles import compared


@dataclass(frozen=True)
class CE(Objective):
    """Cross-entropy with the labels, over the labelled examples."""

    def loss(self, step: Step, state: Any) -> Terms:
        return {"ce": Term(compared(cross_entropy, step.student("x"), None, step.y), where="labelled")}


@dataclass(frozen=True)
class KL(Objective):
    """tau**2 KL(teacher || student) of distributions softened by tau, over all examples (Hinton et al. 2015)."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        return {"kl": compared(kl, step.student("x"), step.teacher("x"), tau=self.tau)}


@dataclass(frozen=True)
class CommitteeKL(Objective):
    """As KL, with the mean of several teachers' softened distributions as the target (Hinton et al. 2015, section 1;
    You et al. 2017, equation 4)."""

    tau: float = 1.0
    mean: Literal["arithmetic", "geometric"] = "arithmetic"

    def loss(self, step: Step, state: Any) -> Terms:
        if len(step.teachers) < 2:
            raise SettingError(
                f"a committee has two teachers or more; the run has {len(step.teachers)}: Run(teacher=[a, b])"
            )
        soft = torch.stack([wide(teacher("x").logits) / self.tau for teacher in step.teachers])
        target = pooled(soft, self.mean) * self.tau  # kl softens by tau itself
        return {"kl": kl(step.student("x").logits, target, tau=self.tau)}
