"""One teacher, many students: each batch is loaded, augmented and shown to the teacher once, and all learn from it.

    runs = together({"small": cnn, "wide": resnet8}, teacher=teacher, data=(x, y), method=kd(tau=4.0), epochs=30)

Each student has a run of its own: its optimiser, generators, method's state, checkpoint, and so ends in the weights
that it would have reached alone, on the CPU to the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.checkpoint import finish_step_on_interrupt
from limbeck.data import Batch
from limbeck.errors import Interrupted, SettingError
from limbeck.objective import Objective
from limbeck.run import Run
from limbeck.signals import Output
from limbeck.teachers import as_teacher


class Shared(nn.Module):
    """A teacher that remembers its answers to the inputs of the current step, by identity."""

    def __init__(self, teacher: Any) -> None:
        super().__init__()
        self.teacher = as_teacher(teacher)
        self.answers: list[tuple[Any, Output]] = []

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        self.teacher.read(names, owner=owner)

    def forget(self) -> None:
        self.answers.clear()

    def forward(self, x: Any, view: str = "x", index: Tensor | None = None) -> Output:
        for asked, known in self.answers:
            if asked is x:
                return known
        answer: Output = self.teacher(x, view, index)
        if index is not None:
            self.answers.append((x, answer))
        return answer


def together(
    students: Mapping[str, nn.Module] | Sequence[nn.Module],
    *,
    method: Objective | Sequence[Objective],
    teacher: Any = None,
    folder: Path | str | None = None,
    resume: bool = False,
    **fields: Any,
) -> dict[str, Run]:
    """Train several students from one pass of the teacher per batch; their finished runs, by name.

    students: by name, or in a row; the names are then "0", "1", ...
    method: one for all, or one for each. teacher: as in Run; a method that mixes inputs, or joins views, asks it anew.
    folder: each student's run goes to folder/<name>; with `resume`, each goes on from there.
    fields: as in Run, the same for all.

    Raises SettingError if there is no student or the methods are not as many as the students, and as `Run`.
    """
    named = dict(students) if isinstance(students, Mapping) else {str(i): each for i, each in enumerate(students)}
    methods = [method] * len(named) if isinstance(method, Objective) else list(method)
    if not named or len(methods) != len(named):
        raise SettingError(f"{len(named)} students and {len(methods)} methods: give one method for all, or one each")
    teachers = [] if teacher is None else list(teacher) if isinstance(teacher, Sequence) else [teacher]
    shared = [Shared(each) for each in teachers]
    runs = {
        name: Run(
            student=student,
            teacher=shared or None,
            method=each,
            folder=None if folder is None else Path(folder) / name,
            **fields,
        )
        for (name, student), each in zip(named.items(), methods, strict=True)
    }
    Lockstep(list(runs.values()), shared).fit(resume=resume)
    return runs


class Lockstep:
    """Runs that take each step together. Each finds torch's generator as it left it."""

    def __init__(self, runs: list[Run], shared: list[Shared]) -> None:
        self.runs, self.shared = runs, shared

    def fit(self, *, resume: bool) -> None:
        self.setup(resume)
        with finish_step_on_interrupt() as interrupted:
            while self.runs[0].epoch < self.runs[0].epochs:
                for _ in self.epoch():
                    if interrupted.is_set():
                        saved = [str(run.save()) for run in self.runs if run.checkpoint]
                        raise Interrupted(f"stopped after step {self.runs[0].steps_done}; saved: {saved or 'nothing'}")

    def setup(self, resume: bool = False) -> None:
        self.states: list[Tensor] = []
        for run in self.runs:
            run.setup()
            if run.fabric.world_size > 1:
                raise SettingError("students train together in one process: leave devices=1")
            if resume and run.checkpoint is not None and run.checkpoint.exists():
                run.load(run.checkpoint)
            self.states.append(torch.get_rng_state())
        self.catch_up()

    def catch_up(self) -> None:
        """After a kill, some may have been saved an epoch later than the others."""
        ahead = max((run.epoch, run.done) for run in self.runs)
        for i, run in enumerate(self.runs):
            while (run.epoch, run.done) < ahead:
                for _ in self.turns(i, run.train_epoch(threading.Event())):
                    self.forget()
                    if (run.epoch, run.done) == ahead:
                        break

    def epoch(self) -> Iterator[None]:
        """The rest of the current epoch, a step of each run at a time."""
        first = self.runs[0]
        queues: list[list[list[Batch]]] = [[] for _ in self.runs]
        turns = [
            self.turns(i, run.train_epoch(threading.Event(), iter(queue.pop, None)))
            for i, (run, queue) in enumerate(zip(self.runs, queues, strict=True))
        ]
        for micros in first.micro_batches(first.plan(first.epoch)[first.done :]):
            self.forget()
            for queue, turn in zip(queues, turns, strict=True):
                queue.append([batch.twin() for batch in micros])
                next(turn)
            yield
        self.forget()
        for run, queue, turn in zip(self.runs, queues, turns, strict=True):
            queue.append(None)  # type: ignore[arg-type]
            run.teacher_logits = first.teacher_logits  # on the test data, asked once
            next(turn, None)

    def turns(self, i: int, steps: Iterator[None]) -> Iterator[None]:
        while True:
            torch.set_rng_state(self.states[i])
            try:
                next(steps)
            except StopIteration:
                return
            finally:
                self.states[i] = torch.get_rng_state()
            yield

    def forget(self) -> None:
        for teacher in self.shared:
            teacher.forget()
