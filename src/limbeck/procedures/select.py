"""Runs on a selection of the examples: fewer of them, or the best of a pool without labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.data import UNLABELLED, as_data
from limbeck.data.select import joined, subset, topk_per_class
from limbeck.errors import SettingError
from limbeck.optim import Optim
from limbeck.procedures.chain import within
from limbeck.run import Run


def pruned(run: Run, ids: Int[Tensor, " k"], *, same_steps: bool = False) -> Run:
    """The run on these of its examples, not started (Ben-Baruch et al. 2024, data pruning with distillation). Its
    teacher should be one of all examples.

    same_steps: more epochs, so that there are about as many steps as with all examples, to compare at equal cost;
        else the same number of epochs, as in the paper.
    """
    data = as_data(run.data)
    part = replace(run, data=subset(data, ids))
    if not same_steps:
        return part
    before, after = (-(-n // run.batch_size) for n in (len(data), len(ids)))
    return replace(part, epochs=-(-run.epochs * before // after))


def ssld(run: Run, pool: Any, *, per_class: int, epochs: int, optimizer: Optim, resume: bool = False) -> list[Run]:
    """Learn from the teacher on the run's examples and the best of a pool, then on the run's examples alone (Cui et
    al. 2021, SSLD). The two finished runs.

    run: the first stage, with one teacher and a method without labels, such as ssld(). pool: examples, as Run takes
        them, without those of the test set (`data.select.near` finds them). per_class: at most so many of each class
        that the teacher sees in the pool, those it is surest of. epochs, optimizer: of the second stage; the authors
        take 360 epochs and then 30 with a small learning rate.
    """
    if run.teacher is None or isinstance(run.teacher, list | tuple) or isinstance(run.student, list | tuple):
        raise SettingError("the pool is chosen by one teacher for one student: give Run(student=..., teacher=...)")
    data, pool = as_data(run.data), as_data(pool)
    scout = replace(run, data=data, folder=None)
    scout.setup()
    confidence, label = scout.predict(scout.teachers[0], pool).softmax(-1).max(-1)
    if "valid" in pool.masks:
        label = torch.where(pool.masks["valid"], label, UNLABELLED)
    chosen = topk_per_class(confidence, label, per_class)
    net = scout.students[0]
    large = replace(run, student=net, data=joined(data, subset(pool, chosen)), folder=within(run, "distil"))
    large.fit(resume=resume)
    tune = replace(run, student=net, data=data, epochs=epochs, optimizer=optimizer, folder=within(run, "tune"))
    tune.fit(resume=resume)
    return [large, tune]
