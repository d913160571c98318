"""Objectives on the features of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.bridges import bridge
from limbeck.errors import ShapeError
from limbeck.losses.feature import attention_transfer, mse
from limbeck.objective import Objective, Reads, Terms
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run

#: A layer's path in both models, or (student's, teacher's).
Layer = str | tuple[str, str]


def both(layer: Layer) -> tuple[str, str]:
    return (layer, layer) if isinstance(layer, str) else layer


def reads_of(*layers: Layer) -> Reads:
    return frozenset(
        (role, path) for layer in layers for role, path in zip(("student", "teacher"), both(layer), strict=True)
    )


@dataclass(frozen=True)
class Hint(Objective):
    """The student's features, through a learnt bridge, against the teacher's: mean squared difference.

    layer: a path in both models, or (student's, teacher's). Source: Romero et al. 2015, equation 3, whose half sum of
    squares is this mean times a constant; the paper's regressor also ends in the non-linearity of the teacher's layer.
    """

    layer: Layer

    @property
    def reads(self) -> Reads:
        return reads_of(self.layer)

    def init(self, run: Run) -> nn.Module:
        student, teacher = both(self.layer)
        return bridge(run.shape("student", student), run.shape("teacher", teacher))

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = both(self.layer)
        return {"hint": mse(state(step.student("x")[student]), step.teacher("x")[teacher])}


@dataclass(frozen=True)
class AttentionTransfer(Objective):
    """Where the layers are active: squared difference of normalised attention maps, summed over the layers.

    layers: paths in both models, or (student's, teacher's) pairs. Source: Zagoruyko & Komodakis 2017, section 3.1.
    """

    layers: tuple[Layer, ...]

    @property
    def reads(self) -> Reads:
        return reads_of(*self.layers)

    def loss(self, step: Step, state: Any) -> Terms:
        terms = {}
        for layer in self.layers:
            own, other = both(layer)
            student, teacher = step.student("x")[own], step.teacher("x")[other]
            if student.dim() != 4 or teacher.dim() != 4:
                raise ShapeError(
                    f"attention maps need features (b, c, h, w); layer {layer!r} gives {tuple(student.shape)} and "
                    f"{tuple(teacher.shape)}: tap a convolutional layer, or use Hint(layer)"
                )
            name = own if own == other else f"{own}-{other}"
            terms[f"attention/{name}"] = attention_transfer(student, teacher)
        return terms
