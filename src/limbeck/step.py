"""A step is all that an objective can see: models on named views, labels, ids, clocks and randomness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from limbeck.data import given
from limbeck.data.draws import uniform
from limbeck.errors import SettingError
from limbeck.objective import Term
from limbeck.schedules import Clock, Schedule, value
from limbeck.signals import Output
from limbeck.teachers import only

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run


NOT_RECORDED = (
    "a record tells what a teacher said of the data's texts, not of those that the student writes: give the teacher "
    "itself"
)


class Player:
    """One model within one step: it runs on each named view at most once, whoever asks."""

    def __init__(self, batch: Batch, name: str, model: Callable[[Any, str, Tensor], Output]) -> None:
        # Not the step: the two would hold each other, and their tensors would wait for the garbage collector.
        self.batch, self.name, self.model = batch.of(name), name, model
        self.seen: dict[str, Output] = {}
        self.rows: dict[str, Output] = {}  # the same, where rows are tokens
        self.forwards: list[set[str]] = []  # the views that went through the model together

    def __call__(self, view: str = "x") -> Output:
        if self.batch.positions is None:
            return self.whole(view)
        if view not in self.rows:
            self.rows[view] = self.whole(view).at(self.batch.positions)
        return self.rows[view]

    def whole(self, view: str = "x") -> Output:
        """Where a row is a token: what the model said of the whole sequences, (b, n, ...)."""
        if view not in self.seen:
            output = ask(self.model, self.batch, view)
            self.seen[view] = output if self.batch.vocabulary is None else output.cut(self.batch.vocabulary)
            self.forwards.append({view})
        return self.seen[view]

    def join(self, *views: str) -> list[Output]:
        """The outputs on several views from one forward, so that batch normalisation sees them together."""
        if hasattr(self.model, "lookup"):  # in a record no forward is left to be joined
            return [self(view) for view in views]
        if not any(set(views) <= forward for forward in self.forwards):
            alone = [view for view in views if view in self.seen]
            if alone:
                raise SettingError(
                    f"the {self.name} has run on {alone} alone already, and is now asked for {list(views)} in one "
                    f"forward: put the objective that joins views first in the sum"
                )
            inputs = [self.batch.view(view) for view in views]
            whole = self.model(concatenate(inputs), "+".join(views), self.batch.index)
            self.seen.update(zip(views, whole.split([len(self.batch)] * len(views)), strict=True))
            self.forwards.append(set(views))
        return [self(view) for view in views]


def ask(model: Any, batch: Batch, view: str) -> Output:
    """What a model says of a view. One that looks it up is given the batch, which knows the view's seed and epoch."""
    if hasattr(model, "lookup"):
        if not batch.recorded:
            raise SettingError(NOT_RECORDED)
        return model.lookup(batch, view)  # type: ignore[no-any-return]
    return model(batch.view(view), view, batch.index)  # type: ignore[no-any-return]


class Step:
    """One micro-batch on its way through models and losses.

    student("x"), teacher("x"): `Output`s with `.logits`, `.embedding`, `["layer.path"]`; also `.join("x", "strong")`.
    A row is an example; where labels are of tokens, a token that has one, at the place before it, where it is
        predicted. `student.whole("x")` is of the sequences as they are, and `Term(where="sequences")` counts them.
    students, teachers: all of them. y (rows,): labels, UNLABELLED where there is none. index (rows,): stable ids.
    at(schedule): a number now. keep(name=tensor): hand rows to `update`. uniform(stream, n): replayable randomness.
    rng: a generator equal on all ranks, for decisions; local_rng: one per rank, for samples.
    """

    def __init__(self, run: Run, batch: Batch, clock: Clock, epoch: int) -> None:
        self.run, self.batch, self.clock, self.epoch = run, batch, clock, epoch
        self.counts: Mapping[str | None, Tensor | int] = {}
        self.kept: dict[str, Tensor] = {}
        self.forget()

    @property
    def student(self) -> Player:
        return self.students[0]

    @property
    def teacher(self) -> Player:
        teacher: Player = only(self.teachers)
        return teacher

    @property
    def rows(self) -> int:
        return self.batch.rows

    @property
    def index(self) -> Tensor:
        return self.batch.row_index

    @property
    def y(self) -> Tensor:
        return given(self.batch.row_labels)

    def view(self, name: str = "x") -> Any:
        """The batch's inputs under a view, on the device."""
        return self.batch.view(name)

    def mask(self, name: str) -> Tensor:
        """Which rows count: (rows,) bool, or (rows, length) for masks of tokens."""
        return self.batch.mask(name)

    def forget(self) -> None:
        """Ask the models anew: what `prepare` asked them was without gradient, and maybe of another batch."""
        self.students = tuple(Player(self.batch, "student", net) for net in self.run.students)
        self.teachers = tuple(Player(self.batch, "teacher", teacher) for teacher in self.run.teachers)

    @property
    def rng(self) -> torch.Generator:
        return self.run.rng

    @property
    def local_rng(self) -> torch.Generator:
        return self.run.local_rng

    def uniform(self, stream: str, n: int) -> Tensor:
        """(rows, n) numbers in [0, 1) that depend on the run's seed, the example, the step and the stream's name only:
        equal however a batch is split, and after a resume."""
        return uniform(self.run.seed, self.index, epoch=self.run.steps_done, stream=stream, n=n)

    def at(self, number: float | Schedule) -> float:
        """The number, or the schedule's value at this moment of the stage."""
        return value(number, self.clock)

    def keep(self, **rows: Tensor) -> None:
        """Keep one row per example, without gradient, for `update`."""
        self.kept.update({name: kept.detach() for name, kept in rows.items()})


class Merged:
    """What `update` sees: one whole optimiser step, over all micro-batches and ranks, in their order."""

    def __init__(self, steps: Sequence[Step], gather: Callable[[Tensor], Tensor]) -> None:
        first = steps[0]
        self.run, self.clock, self.epoch = first.run, first.clock, first.epoch
        self._steps, self._gather = steps, gather
        self.at = first.at

    def rows(self, pick: Callable[[Step], Tensor]) -> Tensor:
        parts = [pick(step) for step in self._steps]
        return self._gather(parts[0] if len(parts) == 1 else torch.cat(parts))

    @property
    def index(self) -> Tensor:
        return self.rows(lambda step: step.index)

    @property
    def y(self) -> Tensor:
        return self.rows(lambda step: step.y)

    def kept(self, name: str) -> Tensor:
        return self.rows(lambda step: step.kept[name])


def concatenate(inputs: Sequence[Any]) -> Any:
    """Batches of one form (tensors, mappings or tuples of them) along their first dimension."""
    first = inputs[0]
    if isinstance(first, Mapping):
        return {key: concatenate([each[key] for each in inputs]) for key in first}
    if isinstance(first, tuple):
        return tuple(concatenate(list(parts)) for parts in zip(*inputs, strict=True))
    return torch.cat(list(inputs))


__all__ = ["Merged", "Player", "Step", "Term", "ask"]
