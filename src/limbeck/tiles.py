"""One way to compare logits, whatever their size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from limbeck.losses.linear import Linear, Logits, linear_divergence
from limbeck.signals import Output

#: Bytes of logits in float32 from which they are not made at once: on a CPU, whose cache holds less, and elsewhere,
#: where it saves memory, and its time was not measured.
LARGE, ELSEWHERE = 1 << 23, 1 << 28


def compared(
    loss: Callable[..., Tensor], student: Output, teacher: Output | None = None, *rows: Tensor, **settings: Any
) -> Tensor:
    """`loss(student.logits, teacher.logits, *rows, **settings)`, one number per row; tile by tile where the models are
    language models whose logits would be large, and nobody has asked for them whole."""
    if large(student):
        return Tiled(partial(loss, **settings), student, teacher, rows)
    others = () if teacher is None else (teacher,)
    return loss(student.logits, *(other.logits for other in others), *rows, **settings)


def large(output: Output) -> bool:
    if output.head is None or ".logits" in output.signals:
        return False
    least = LARGE if output.embedding.device.type == "cpu" else ELSEWHERE
    return 4 * len(output.embedding) * output.head.classes >= least


class Tiled(Tensor):
    """Losses of rows that are not computed yet, so that `join` can compute those of several objectives together. To
    multiply it by a weight gives another one; whatever else is done to it computes it."""

    def __new__(cls, *given: Any) -> Tiled:
        return torch.empty(0).as_subclass(cls)

    def __init__(
        self,
        loss: Callable[..., Tensor],
        student: Output,
        teacher: Output | None,
        rows: tuple[Tensor, ...],
        weight: float | Tensor = 1.0,
    ) -> None:
        self.loss, self.student, self.teacher, self.rows, self.weight = loss, student, teacher, rows, weight
        self.value: Tensor | None = None

    def tensor(self) -> Tensor:
        if self.value is None:
            join([self])
        assert self.value is not None
        return self.value

    def times(self, weight: float | Tensor) -> Tensor:
        learnt = isinstance(weight, Tensor) and weight.requires_grad
        if self.value is not None or learnt:
            return self.tensor() * weight
        return Tiled(self.loss, self.student, self.teacher, self.rows, self.weight * weight)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS:
            first, second = args
            return first.times(second) if isinstance(first, Tiled) else second.times(first)
        args, kwargs = tree_map(lambda each: each.tensor() if isinstance(each, Tiled) else each, (args, kwargs or {}))
        return function(*args, **kwargs)


PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


def join(values: Iterable[Any]) -> None:
    """Compute the losses among them that are not yet: each pair of models once, whatever it is compared by."""
    waiting = [each for each in values if isinstance(each, Tiled) and each.value is None]
    while waiting:
        student, teacher = waiting[0].student, next((each.teacher for each in waiting if each.teacher), None)
        group = [each for each in waiting if each.student is student and each.teacher in (None, teacher)]
        compute(group, student, teacher if any(each.teacher for each in group) else None)
        waiting = [each for each in waiting if each.value is None]


def compute(group: list[Tiled], student: Output, teacher: Output | None) -> None:
    def losses(logits: Tensor, *others: Tensor) -> Tensor:
        told, rows = (others[:1], others[1:]) if teacher is not None else ((), others)
        found = []
        for each in group:
            own, rows = rows[: len(each.rows)], rows[len(each.rows) :]
            found.append(each.loss(logits, *(told if each.teacher is not None else ()), *own))
        return torch.stack(found, -1)

    ones = torch.ones(len(student.embedding), device=student.embedding.device)
    weights = torch.stack([each.weight * ones for each in group], -1)
    rows = chain.from_iterable(each.rows for each in group)
    logits = None if teacher is None else said(teacher)
    found = linear_divergence(losses, apart(student), logits, *rows, weights=weights)
    for each, value in zip(group, found.unbind(-1), strict=True):
        each.value = value


def said(teacher: Output) -> Logits:
    """Its logits, or what makes them: a head, or a record's rows."""
    if ".logits" in teacher.signals:
        return teacher.logits
    return apart(teacher) if teacher.head is not None else teacher.coded or teacher.logits


def apart(output: Output) -> Linear:
    assert output.head is not None
    return Linear(output.embedding, output.head)
