"""Objectives on class probabilities without labels, or against labels by squared distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from limbeck.losses.feature import mse
from limbeck.losses.inputs import probabilities, wide
from limbeck.losses.logit import cross_entropy
from limbeck.losses.symmetric import symmetric_kl
from limbeck.objective import Objective, Term, Terms
from limbeck.signals import same_shape
from limbeck.step import Step
from limbeck.targets import one_hot


@dataclass(frozen=True)
class SoftCE(Objective):
    """Cross-entropy with the teacher's probabilities, or the mean of several teachers', over all examples.

    tau, teacher_tau: temperatures of the student and of each teacher; the value is not multiplied by tau**2.
    """

    tau: float = 1.0
    teacher_tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        teachers = step.teachers or (step.teacher,)  # the latter says that there is none
        said = [teacher("x").logits for teacher in teachers]
        for each in said:
            same_shape("logits", logits, each, "both must tell the same classes apart")
        target = torch.stack([probabilities(wide(each) / self.teacher_tau) for each in said]).mean(0)
        return {"soft": cross_entropy(wide(logits) / self.tau, target)}


@dataclass(frozen=True)
class SymmetricKL(Objective):
    """The mean of both KL divergences between student and teacher, over all examples (Cui et al. 2021, SSLD)."""

    eps: float = 1e-12

    def loss(self, step: Step, state: Any) -> Terms:
        return {"symmetric_kl": symmetric_kl(step.student("x").logits, step.teacher("x").logits, eps=self.eps)}


@dataclass(frozen=True)
class Brier(Objective):
    """Mean squared distance of the student's probabilities from the labels, over classes and labelled examples."""

    def loss(self, step: Step, state: Any) -> Terms:
        p = probabilities(step.student("x").logits)
        return {"brier": Term(mse(p, one_hot(step.y, p.shape[-1], p.dtype)), where="labelled")}


@dataclass(frozen=True)
class BrierKD(Objective):
    """Mean squared distance of the student's probabilities from the teacher's, over classes and all examples."""

    def loss(self, step: Step, state: Any) -> Terms:
        return {"brier_kd": mse(probabilities(step.student("x").logits), probabilities(step.teacher("x").logits))}


@dataclass(frozen=True)
class WeightNorms(Objective):
    """The sum of the L2 norms (not squared) of the student's parameters, biases too; the same for every example."""

    def loss(self, step: Step, state: Any) -> Terms:
        net = step.run.students[0]
        norms = [p.norm() for p in net.parameters() if p.requires_grad]
        return {"norms": torch.stack(norms).sum().expand(step.rows)}
