"""Objectives that learn from the student's own past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Objective, Term, Terms
from limbeck.schedules import Ramp, Schedule
from limbeck.step import Merged, Step
from limbeck.targets import mix, one_hot
from limbeck.teachers import Bank

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class PastSelf(Objective):
    """Cross-entropy with the labels mixed with what the student itself said of each example an epoch ago, on that
    epoch's view and before its update (Kim et al. 2021, PS-KD, equation 5; the stored form of the authors' code).

    alpha: share of the past, a schedule by epoch; the authors' grows linearly to 0.8.
    """

    alpha: float | Schedule = Ramp(0.0, 0.8, by="epoch")

    def init(self, run: Run) -> nn.Module:
        if run.num_classes is None:
            raise SettingError("the past needs to know the number of classes: Data(x, y, classes=...)")
        return Bank(run.num_examples, run.num_classes)

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        truth = one_hot(step.y, logits.shape[-1], logits.dtype)
        past = state.read(step.index, default=truth)  # in the first epoch, the truth
        step.keep(now=logits.softmax(-1))
        return {"ce": Term(cross_entropy(logits, mix(truth, past, step.at(self.alpha))), where="labelled")}

    def update(self, step: Merged, state: Any) -> None:
        state.write(step.index, step.kept("now"))
