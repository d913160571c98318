"""Any objective on standardised logits."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from limbeck.losses.correlation import standardise
from limbeck.objective import Composite, Objective, Terms
from limbeck.signals import Output
from limbeck.step import Player, Step


class StandardPlayer(Player):
    """A player whose logits have mean 0 and deviation 1 in each example."""

    def __init__(self, player: Player) -> None:
        super().__init__(player.batch, player.name, player.model)
        self.player = player

    def __call__(self, view: str = "x") -> Output:
        return with_standard_logits(self.player(view))

    def join(self, *views: str) -> list[Output]:
        return [with_standard_logits(output) for output in self.player.join(*views)]


def with_standard_logits(output: Output) -> Output:
    return Output({**output.signals, ".logits": standardise(output.logits)}, output.versions)


@dataclass(frozen=True)
class Standardised(Composite):
    """An objective that sees the models' logits as z-scores, so that only their proportions count, not their scale:
    `Standardised(KL(2.0))` (Sun et al. 2024). Not for cross-entropy with labels, nor for averages of the past."""

    objective: Objective

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def loss(self, step: Step, state: Any) -> Terms:
        seen = copy.copy(step)
        seen.students = tuple(map(StandardPlayer, step.students))
        seen.teachers = tuple(map(StandardPlayer, step.teachers))
        return self.objective.loss(seen, state[0])
