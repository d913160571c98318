"""Runs in a row: each student teaches the next one.

takd(Run(student=small, teacher=large, method=kd(tau=4.0), data=data), [middle])
generations(Run(student=first, method=kd(tau=4.0), data=data), [second, third], first=CE())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from limbeck.errors import SettingError
from limbeck.objective import Objective
from limbeck.run import Run


def chain(
    run: Run, students: Sequence[nn.Module], *, first: Objective | None = None, resume: bool = False
) -> list[Run]:
    """Train each student in turn as `run` says, with the one before it as its frozen teacher; the finished runs.

    The first learns from the run's teacher, by the method `first` if there is one. All see the same batches. With a
    folder, each has its own in it, "1", "2", ..., and `resume` passes over those that are done.
    """
    runs: list[Run] = []
    for i, student in enumerate(students):
        teacher = runs[-1].students[0] if runs else run.teacher
        method = first if first is not None and not runs else run.method
        link = replace(run, student=student, teacher=teacher, method=method, folder=within(run, str(i + 1)))
        link.fit(resume=resume)
        runs.append(link)
    return runs


def takd(run: Run, assistants: Sequence[nn.Module], *, resume: bool = False) -> list[Run]:
    """Teacher, assistants, student: each is distilled from the one before, the assistants largest first (Mirzadeh et
    al. 2020, TAKD). The last of the runs is the student's.

    run: the student's, with the teacher, already trained. One method and budget for all links; the authors search
        temperature and weight for each link and keep the epoch that is best on the test data, here the last is kept.
    """
    if run.teacher is None or isinstance(run.student, Sequence):
        raise SettingError("assistants stand between one teacher and one student: give Run(student=..., teacher=...)")
    return chain(run, [*assistants, run.student], resume=resume)


def generations(run: Run, students: Sequence[nn.Module], *, first: Objective, resume: bool = False) -> list[Run]:
    """Born again: the run's student learns by the method `first`, without a teacher; then each of the others, fresh
    networks of the same kind, from the one before (Furlanello et al. 2018; Borup & Andersen 2021)."""
    if run.teacher is not None or isinstance(run.student, Sequence):
        raise SettingError("the first generation is one student without a teacher: give Run(student=...)")
    return chain(run, [run.student, *students], first=first, resume=resume)


def within(run: Run, name: str) -> Path | None:
    """A folder within the run's."""
    return None if run.folder is None else Path(run.folder) / name
