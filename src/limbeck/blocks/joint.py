"""Objectives on joint labels of class and transformation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data import Batch
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.joint import aggregate, joint_cross_entropy
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run

COLOURS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0))


@dataclass(frozen=True)
class JointLabels(Objective):
    """A second head tells class and transformation of each rotated or recoloured image at once; the student's own head
    learns the label, and the mean of what the second one says of all transformed images, without gradient (Lee et al.
    2020, SLA+SD).

    rotations: 4, 2 (by half a turn) or 1, for none. colours: 6 orders of the channels, 3 or 1. tau: of the third term.
    joint: weight of the second head's term; the authors multiply it by the number of transformations on ImageNet.

    Only the student's own head is kept: the aggregate of the second one, SLA+AG, is not evaluated. All images are in
    one forward, so batch normalisation sees them together.
    """

    rotations: Literal[1, 2, 4] = 4
    colours: Literal[1, 3, 6] = 1
    tau: float = 1.0
    joint: float = 1.0

    def __post_init__(self) -> None:
        if self.rotations not in (1, 2, 4) or self.colours not in (1, 3, 6) or self.rotations * self.colours == 1:
            raise SettingError(
                f"rotations is 1, 2 or 4 and colours 1, 3 or 6, not both 1; got {self.rotations} and {self.colours}"
            )

    @property
    def reads(self) -> Reads:
        return frozenset({("student", EMBEDDING)})

    @property
    def views(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Quarter turns and order of channels of each view, the untransformed "x" first."""
        turns = range(0, 4, 4 // self.rotations)
        all_ = list(product(turns, COLOURS[: self.colours]))
        return {f"x/{i}" if i else "x": each for i, each in enumerate(all_)}

    def init(self, run: Run) -> nn.Module:
        assert run.num_classes is not None
        return nn.Linear(run.shape("student", EMBEDDING)[-1], run.num_classes * len(self.views))

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        x = batch.view("x")
        for name, (turns, channels) in list(self.views.items())[1:]:
            batch.made[name] = transformed(x, turns, channels)
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        outputs = step.student.join(*self.views)
        joint = state(torch.stack([output.embedding for output in outputs], 1))
        plain = outputs[0].logits
        return {
            "joint": Term(self.joint * joint_cross_entropy(joint, step.y), where="labelled"),
            "ce": Term(cross_entropy(plain, step.y), where="labelled"),
            "self": kl(plain, aggregate(joint).detach(), tau=self.tau),
        }


def transformed(x: Tensor, turns: int, channels: tuple[int, ...]) -> Tensor:
    """Images (b, c, h, w) after quarter turns and with their channels in another order."""
    if turns % 2 and x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"quarter turns need square images, these are {tuple(x.shape[1:])}: take rotations=2")
    if channels != COLOURS[0]:
        if x.shape[1] != 3:
            raise ShapeError(f"orders of colours need 3 channels, these images have {x.shape[1]}: take colours=1")
        x = x[:, list(channels)]
    return x.rot90(turns, (-2, -1))
