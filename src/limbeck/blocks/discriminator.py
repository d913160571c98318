"""A judge that tells student from teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from limbeck.errors import SettingError
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.inputs import wide
from limbeck.objective import Objective, Terms
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class Discriminator(Objective):
    """A small network learns to tell the student's logits from the mean of the teachers' (Shen & Savvides 2020, MEAL
    V2, models/discriminator.py and loss.py): binary cross-entropy of two outputs against (1, 0) and (0, 1).

    reverse: True: the student learns to pass for its teachers; the term falls for the judge and rises for the student.
        False: as released, nothing is reversed, so that the student helps the judge.
    shrink: each hidden layer is so many times narrower, but at least 15 wide, as are the authors' 125 and 15 of 1000
        classes. As theirs it ends in a ReLU, behind which it may die: then the term is log 2 and teaches nothing.
    """

    reverse: bool
    shrink: int = 8

    def init(self, run: Run) -> nn.Module:
        if run.num_classes is None:
            raise SettingError("the judge needs to know the number of classes: Data(x, y, classes=...)")
        first = max(15, run.num_classes // self.shrink)
        second = max(15, first // self.shrink)
        layers = (nn.Linear(run.num_classes, first), nn.Linear(first, second), nn.Linear(second, 2))
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))  # after the last one too

    def loss(self, step: Step, state: Any) -> Terms:
        student = wide(step.student("x").logits)
        teachers = step.teachers or (step.teacher,)  # the latter says that there is none
        teacher = torch.stack([wide(each("x").logits) for each in teachers]).mean(0)
        turned = 2 * student.detach() - student  # its value is the student's, its gradient turned round
        dtype = state[0].weight.dtype
        sides = state((turned if self.reverse else student).to(dtype)), state(teacher.to(dtype))
        truth = torch.eye(2, dtype=student.dtype, device=student.device)  # (1, 0): a student, (0, 1): a teacher
        parts = [binary_cross_entropy(side, row.expand_as(side)) for side, row in zip(sides, truth, strict=True)]
        return {"judge": (parts[0] + parts[1]) / 2}
