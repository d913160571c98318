"""One way to compare logits, whatever their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limbeck.losses.linear import Linear, Logits, linear_divergence
from limbeck.signals import Output

LARGE = 1 << 28  # bytes of logits in float32 from which they are not made at once


def compared(
    loss: Callable[..., Tensor], student: Output, teacher: Output | None = None, *rows: Tensor, **settings: Any
) -> Tensor:
    """`loss(student.logits, teacher.logits, *rows, **settings)`, one number per row; tile by tile where the models are
    language models whose logits would be large, and nobody has asked for them whole."""
    others = () if teacher is None else (teacher,)
    if not large(student):
        return loss(student.logits, *(other.logits for other in others), *rows, **settings)
    return linear_divergence(loss, apart(student), None if teacher is None else said(teacher), *rows, **settings)


def large(output: Output) -> bool:
    if output.head is None or ".logits" in output.signals:
        return False
    return 4 * len(output.embedding) * len(output.head.weight) >= LARGE


def said(teacher: Output) -> Logits:
    """Its logits, or what makes them: a head, or a record's rows."""
    if ".logits" in teacher.signals:
        return teacher.logits
    return apart(teacher) if teacher.head is not None else teacher.coded or teacher.logits


def apart(output: Output) -> Linear:
    assert output.head is not None
    return Linear(output.embedding, output.head)
