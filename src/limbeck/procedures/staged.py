"""One student through several runs, each with other data, another teacher or another method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from limbeck.errors import SettingError
from limbeck.objective import Objective
from limbeck.procedures.chain import within
from limbeck.run import Run


def staged(run: Run, stages: Sequence[Mapping[str, Any]], *, resume: bool = False) -> list[Run]:
    """Train the run's student in stages, each the run with some fields changed; the finished runs. Where all data is
    one, `Stages` in a single run does.

    stages: {"data": ..., "teacher": ..., "method": ..., "epochs": ...}. A stage may name another "student", one that
        shares modules with the one before, as a classifier on the body of a language model does.

    What an objective has learnt, such as maps between widths, goes on where a later stage has an equal objective. With
    a folder, each stage has its own in it, "1", "2", ..., and `resume` passes over those that are done.
    """
    student, runs, learnt = run.student, list[Run](), dict[Objective, nn.Module]()
    for i, fields in enumerate(stages):
        try:
            stage = replace(run, **{"student": student, "folder": within(run, str(i + 1)), **fields})
        except TypeError as error:
            raise SettingError(f"stage {i + 1} has {sorted(fields)}, and these are fields of a Run: {error}") from error
        stage.setup()
        states = dict(leaves(stage.method, stage.bundle.state))
        for objective in states.keys() & learnt.keys():
            states[objective].load_state_dict(learnt[objective].state_dict())
        stage.fit(resume=resume)
        learnt |= states
        student = stage.student
        runs.append(stage)
    return runs


def leaves(objective: Objective, state: Any) -> Iterator[tuple[Objective, nn.Module]]:
    """The objectives that a method is made of, each with its state."""
    if not objective.parts:
        yield objective, state
    for part, own in zip(objective.parts, state if objective.parts else (), strict=True):
        yield from leaves(part, own)
