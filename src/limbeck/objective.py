"""An objective is what a student learns from: a frozen value of settings with two methods to write.

    init(run) -> Module       all that it trains or remembers: projectors, banks, averaged copies
    loss(step, state)         {name: one number per example}, in ordinary PyTorch
    prepare(batch, step, state) -> Batch    optional, without gradient: generate, look up
    update(step, state)       optional, after the optimiser: averages, banks

Objectives are closed under `+` and `*`, and a sequence of them is one too:

    CE() + 0.9 * KL(4.0) + Ramp(0.0, 1.0) * Hint("layer3")
    Stages(((Hint("layer3"), 10), (kd(tau=4.0), None)))

Losses return one number per example. The mean is taken once, in the loop, over all micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError, ShapeError
from limbeck.schedules import Schedule

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run
    from limbeck.step import Merged, Step

#: A signal that an objective wants: ("student" or "teacher", layer path or ".embedding").
Reads = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Term:
    """One number per row of the mask `where`; `None` means every example of the batch.

    A weight multiplies the value. The mask also counts: the value is summed over its rows and divided by how many
    rows it has in the whole step.
    """

    value: Tensor
    where: str | None = None

    def part(self, step: Step) -> Tensor:
        """This micro-batch's share of the mean: a scalar. A mask without rows gives 0."""
        if self.where is None:
            if self.value.shape != (step.rows,):
                raise ShapeError(
                    f"a term of {tuple(self.value.shape)} for a batch of {step.rows} examples: return one number per "
                    f"example, or Term(value, where=...) with a mask of its shape; of texts with "
                    f"labels (n, length), each token is an example"
                )
            return self.value.sum() / step.counts[None]
        mask = step.mask(self.where)
        if self.value.shape != mask.shape:
            raise ShapeError(f"a term of {tuple(self.value.shape)} for the mask {self.where!r} of {tuple(mask.shape)}")
        counted = torch.where(mask, self.value, 0.0)  # not `*`: what is masked may be inf or nan
        return counted.sum() / step.counts[self.where]


Terms = Mapping[str, Term | Tensor]


class Objective:
    """What a student learns from. Subclasses are frozen dataclasses, so they print as the code that makes them."""

    #: Do the rows of a batch see each other? Then micro-batches and ranks change the result, and its page says so.
    couples: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives that this one is made of."""
        return ()

    @property
    def couples_examples(self) -> bool:
        return self.couples or any(part.couples_examples for part in self.parts)

    @property
    def reads(self) -> Reads:
        """The signals beside the logits that it wants; layers that nobody names are never stored."""
        return frozenset().union(*(part.reads for part in self.parts))

    def init(self, run: Run) -> nn.Module:
        return nn.Module()

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def update(self, step: Merged, state: Any) -> None:
        return None

    def span(self, epoch: int, epochs: int) -> tuple[int, int]:
        """First epoch and length of the stage that `epoch` is in: schedules and the learning rate run over it."""
        return 0, epochs

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return Sum((*addends(self), *addends(other)))

    def __mul__(self, weight: float | Schedule) -> Objective:
        if not isinstance(weight, int | float | Schedule):
            return NotImplemented
        return Scaled(weight, self)

    __rmul__ = __mul__


@dataclass(frozen=True, repr=False)
class Composite(Objective):
    """Made of other objectives; its state is the list of theirs."""

    def init(self, run: Run) -> nn.Module:
        return nn.ModuleList(part.init(run) for part in self.parts)

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        for part, own in zip(self.parts, state, strict=True):
            batch = part.prepare(batch, step, own)
        return batch

    def update(self, step: Merged, state: Any) -> None:
        for part, own in zip(self.parts, state, strict=True):
            part.update(step, own)

    def span(self, epoch: int, epochs: int) -> tuple[int, int]:
        staged = {part.span(epoch, epochs) for part in self.parts} - {(0, epochs)}
        if len(staged) > 1:
            raise SettingError(f"the parts of {self!r} are in different stages at once: put the sum inside the Stages")
        return staged.pop() if staged else (0, epochs)


@dataclass(frozen=True, repr=False)
class Sum(Composite):
    """a + b + ...: all terms together. Equal names get a number."""

    terms: tuple[Objective, ...]

    @property
    def parts(self) -> tuple[Objective, ...]:
        return self.terms

    def loss(self, step: Step, state: Any) -> Terms:
        merged: dict[str, Term | Tensor] = {}
        for part, own in zip(self.parts, state, strict=True):
            for name, term in part.loss(step, own).items():
                free, number = name, 1
                while free in merged:
                    number += 1
                    free = f"{name}.{number}"
                merged[free] = term
        return merged

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


@dataclass(frozen=True, repr=False)
class Scaled(Composite):
    """weight * objective, the weight a number or a schedule."""

    weight: float | Schedule
    objective: Objective

    def __post_init__(self) -> None:
        inner = self.objective
        if (
            isinstance(inner, Scaled)
            and not isinstance(self.weight, Schedule)
            and not isinstance(inner.weight, Schedule)
        ):
            object.__setattr__(self, "weight", self.weight * inner.weight)  # 2 * (3 * x) is 6 * x
            object.__setattr__(self, "objective", inner.objective)

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def loss(self, step: Step, state: Any) -> Terms:
        weight = step.at(self.weight)
        terms = as_terms(self.objective.loss(step, state[0]))
        return {name: replace(term, value=weight * term.value) for name, term in terms.items()}

    def __repr__(self) -> str:
        inner = repr(self.objective)
        return f"{self.weight!r} * " + (f"({inner})" if isinstance(self.objective, Sum | Scaled) else inner)


@dataclass(frozen=True)
class Weighted(Composite):
    """An objective whose examples count by `by(step)`: (rows,) weights, without gradient, e.g. `TeacherConfidence()`.

    A weight multiplies the numerator only: halving all weights halves the loss.
    """

    objective: Objective
    by: Callable[[Step], Tensor]

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def loss(self, step: Step, state: Any) -> Terms:
        weights = self.by(step).detach()  # not no_grad(): the student's output may be kept for other terms
        terms = as_terms(self.objective.loss(step, state[0]))
        return {name: replace(term, value=weights * term.value) for name, term in terms.items()}


@dataclass(frozen=True)
class Stages(Composite):
    """One objective after the other: ((objective, epochs), ..., (objective, None)).

    `None`, for the last only, means the rest of the run. At each change the optimiser forgets its momenta and all
    schedules, the learning rate too, start again.
    """

    stages: tuple[tuple[Objective, int | None], ...]

    def __post_init__(self) -> None:
        lengths = [length for _, length in self.stages]
        if not lengths or any(length is None for length in lengths[:-1]):
            raise SettingError(f"Stages takes (objective, epochs) pairs, only the last may have None; got {lengths}")
        if any(length is not None and length < 1 for length in lengths):
            raise SettingError(f"every stage takes at least 1 epoch; got {lengths}")
        if any(has_stages(objective) for objective, _ in self.stages):
            raise SettingError("Stages inside Stages: write one flat sequence")

    @property
    def parts(self) -> tuple[Objective, ...]:
        return tuple(objective for objective, _ in self.stages)

    def bounds(self, epochs: int) -> list[int]:
        """Where the stages start, and `epochs`."""
        starts = [0]
        for _, length in self.stages:
            starts.append(epochs if length is None else starts[-1] + length)
        if starts[-1] != epochs or starts[-2] >= epochs:
            wish = " + ".join("the rest" if length is None else str(length) for _, length in self.stages)
            raise SettingError(f"the stages take {wish} epochs, the run has {epochs}: set the run's epochs to fit")
        return starts

    def stage(self, epoch: int, epochs: int) -> int:
        return sum(epoch >= start for start in self.bounds(epochs)[1:-1])

    def span(self, epoch: int, epochs: int) -> tuple[int, int]:
        bounds, i = self.bounds(epochs), self.stage(epoch, epochs)
        return bounds[i], bounds[i + 1] - bounds[i]

    def current(self, step: Step | Merged, state: Any) -> tuple[Objective, Any]:
        i = self.stage(step.epoch, step.run.epochs)
        return self.parts[i], state[i]

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        part, own = self.current(step, state)
        return part.prepare(batch, step, own)

    def loss(self, step: Step, state: Any) -> Terms:
        part, own = self.current(step, state)
        return part.loss(step, own)

    def update(self, step: Merged, state: Any) -> None:
        part, own = self.current(step, state)
        part.update(step, own)


def has_stages(objective: Objective) -> bool:
    return isinstance(objective, Stages) or any(map(has_stages, objective.parts))


def addends(objective: Objective) -> tuple[Objective, ...]:
    return objective.terms if isinstance(objective, Sum) else (objective,)


def as_terms(terms: Terms) -> dict[str, Term]:
    """Bare tensors become terms over every example."""
    return {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
