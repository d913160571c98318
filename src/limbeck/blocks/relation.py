"""Objectives on how the examples of a batch lie to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from limbeck.blocks.feature import Layer, both, reads_of
from limbeck.losses.relation import rkd_angle, rkd_distance
from limbeck.objective import Objective, Reads, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Step


@dataclass(frozen=True)
class RKD(Objective):
    """Relational distillation: the teacher's relative distances and angles between embeddings (Park et al. 2019).

    distance, angle: weights; 25 and 50 are the authors' for classification. layer: ".embedding", what enters the last
    linear layer, or a path (or pair of paths) to a layer that gives (b, d).
    """

    couples: ClassVar[bool] = True  # every example is related to all others of its batch

    distance: float = 25.0
    angle: float = 50.0
    layer: Layer = EMBEDDING

    @property
    def reads(self) -> Reads:
        return reads_of(self.layer)

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = step.student("x")[both(self.layer)[0]], step.teacher("x")[both(self.layer)[1]]
        terms = {}
        if self.distance:
            terms["distance"] = self.distance * rkd_distance(student.flatten(1), teacher.flatten(1))
        if self.angle:
            terms["angle"] = self.angle * rkd_angle(student.flatten(1), teacher.flatten(1))
        return terms
