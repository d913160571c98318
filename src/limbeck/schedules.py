"""Numbers over time: a schedule is a value that stands wherever a number does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Clock:
    """Where a run, or a stage of it, stands: `step` of `steps`, in `epoch` of `epochs`, all counted from 0."""

    step: int
    steps: int
    epoch: int
    epochs: int


class Schedule:
    """A number that depends on the clock."""

    def __call__(self, clock: Clock) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Ramp(Schedule):
    """A straight line from `start` to `end`.

    By "step" it starts at `start` and reaches `end` when the last step is done. By "epoch" it is constant within
    an epoch and has reached `end` in the last one: `start + (end - start) * (epoch + 1) / epochs`.
    """

    start: float
    end: float
    by: Literal["step", "epoch"] = "step"

    def __call__(self, clock: Clock) -> float:
        share = clock.step / clock.steps if self.by == "step" else (clock.epoch + 1) / clock.epochs
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `start` to `end` over the steps (Loshchilov & Hutter 2017, without restarts)."""

    start: float
    end: float = 0.0

    def __call__(self, clock: Clock) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * clock.step / clock.steps)) / 2


@dataclass(frozen=True)
class MultiStep(Schedule):
    """`value`, multiplied by `factor` at each of the shares `at` of the epochs.

    `MultiStep(0.05, at=(150 / 240, 180 / 240, 210 / 240))` is the schedule of the CIFAR-100 tables of Tian et al.
    """

    value: float
    at: tuple[float, ...]
    factor: float = 0.1

    def __call__(self, clock: Clock) -> float:
        passed = sum(clock.epoch >= round(share * clock.epochs) for share in self.at)
        return self.value * self.factor**passed


@dataclass(frozen=True)
class Warmup(Schedule):
    """`then`, preceded by a straight line from 0 over the first `share` of the steps.

    `then` sees the clock of the whole run, so a cosine is only cut at its start.
    """

    then: float | Schedule
    share: float = 0.05

    def __call__(self, clock: Clock) -> float:
        rise = min(1.0, (clock.step + 1) / max(1.0, self.share * clock.steps))
        return rise * value(self.then, clock)


def value(number: float | Schedule, clock: Clock) -> float:
    """The number at this moment: a plain number is itself."""
    return number(clock) if isinstance(number, Schedule) else number
