"""Objectives for few labels and many unlabelled examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from limbeck.losses.logit import cross_entropy
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Merged, Step
from limbeck.targets import pseudo_label
from limbeck.teachers import EMA

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class PseudoLabel(Objective):
    """Labels on the view "x", and on the unlabelled examples' "strong" view the student's own label of "x", where it
    is sure (Sohn et al. 2020, equations 3-4). One forward sees all views, so batch normalisation sees them together;
    unsure examples count in the denominator.

    weight: lambda_u. threshold: tau, in [0, 1].
    """

    threshold: float = 0.95
    weight: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        weak, strong = step.student.join("x", "strong")
        label, sure = pseudo_label(weak.logits, self.threshold)
        return consistency(step, weak.logits, self.weight * sure * cross_entropy(strong.logits, label))


@dataclass(frozen=True)
class EMAPseudoLabel(Objective):
    """As PseudoLabel, with an exponential moving average of the student as the labeller (Tarvainen & Valpola 2017 for
    the teacher, Sohn et al. 2020 for threshold and views).

    decay: of the average, per step.
    """

    couples: ClassVar[bool] = False

    threshold: float = 0.95
    decay: float = 0.999
    weight: float = 1.0

    def init(self, run: Run) -> nn.Module:
        return EMA(run.students[0], self.decay)

    def loss(self, step: Step, state: Any) -> Terms:
        weak, strong = step.student.join("x", "strong")
        label, sure = pseudo_label(state(step.view("x")).logits, self.threshold)
        return consistency(step, weak.logits, self.weight * sure * cross_entropy(strong.logits, label))

    def update(self, step: Merged, state: Any) -> None:
        state.follow(step.run.students[0])


def consistency(step: Step, labelled: Any, unlabelled: Any) -> Terms:
    return {
        "ce": Term(cross_entropy(labelled, step.y), where="labelled"),
        "pseudo": Term(unlabelled, where="unlabelled"),
    }
