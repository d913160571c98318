"""A target that wanders from the student to the teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError
from limbeck.losses.divergence import taid
from limbeck.objective import Objective, Terms
from limbeck.step import Merged, Step
from limbeck.tiles import compared

if TYPE_CHECKING:
    from limbeck.run import Run


class Wander(nn.Module):
    """t, which rises along a straight line over the steps and runs ahead of it where the loss falls."""

    t: Tensor
    previous: Tensor
    momentum: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        for name, number in (("t", start), ("previous", math.inf), ("momentum", 0.0)):
            self.register_buffer(name, torch.tensor(number))

    def follow(self, loss: Tensor, *, line: float, end: float, alpha: float, beta: float) -> None:
        """After a step with this loss; `line`: where t is at least now."""
        first, loss = self.previous.isinf(), loss.to(self.previous)
        gain = torch.where(first, 0.0, (self.previous - loss) / (self.previous + 1e-15))
        self.momentum.lerp_(gain, 1 - beta)
        ahead = self.t + alpha * self.momentum.sigmoid() * (1 - self.t)
        self.t.copy_(torch.where(first, self.t, ahead.clamp(min=line).clamp(max=end)))
        self.previous.copy_(loss)


@dataclass(frozen=True)
class TAID(Objective):
    """Cross-entropy with a distribution between the student's own and the teacher's, whose logits are mixed; the
    teacher's share t rises from `start` to `end` at least linearly, and faster while the loss falls (Shing et al.
    2025, and the authors' taid.py). It is a whole loss.

    alpha: step of the faster rise, 0 for none; beta: its momentum. As there, the first step does not move t. With
    micro-batches t moves once per optimiser step, there once per micro-batch.
    """

    start: float = 0.4
    end: float = 1.0
    alpha: float = 5e-4
    beta: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise SettingError(f"TAID takes 0 <= start <= end <= 1; got {self.start} and {self.end}")

    def init(self, run: Run) -> nn.Module:
        return Wander(self.start)

    def loss(self, step: Step, state: Any) -> Terms:
        rows = compared(taid, step.student("x"), step.teacher("x"), t=state.t)
        step.keep(taid=rows)
        return {"taid": rows}

    def update(self, step: Merged, state: Any) -> None:
        line = self.start + (self.end - self.start) * step.clock.step / step.clock.steps
        state.follow(step.kept("taid").mean(), line=line, end=self.end, alpha=self.alpha, beta=self.beta)
