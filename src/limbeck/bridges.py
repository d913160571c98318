"""Projectors from a student's features to a teacher's."""

from __future__ import annotations

import math

from torch import nn

from limbeck.errors import ShapeError


def bridge(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    """A learnt map between features of these shapes (batch first).

    (b, d) and (b, tokens, d): a linear map of the last dimension. (b, c, h, w): a convolution, 1 x 1 for equal maps,
    with the kernel that shrinks a larger student's map to the teacher's (Romero et al. 2015, section 2.2), or a 1 x 1
    convolution and interpolation for a smaller one.
    """
    if len(student) == len(teacher) == 4:
        (c, h, w), (c_t, h_t, w_t) = student[1:], teacher[1:]
        if h >= h_t and w >= w_t:
            return nn.Conv2d(c, c_t, (h - h_t + 1, w - w_t + 1))
        return nn.Sequential(nn.Conv2d(c, c_t, 1), nn.Upsample((h_t, w_t), mode="bilinear"))
    if len(student) == len(teacher) in (2, 3) and student[1:-1] == teacher[1:-1]:
        return nn.Linear(student[-1], teacher[-1])
    if len(student) == 2 and len(teacher) > 2:
        return nn.Sequential(nn.Linear(student[1], math.prod(teacher[1:])), nn.Unflatten(1, teacher[1:]))
    raise ShapeError(
        f"no bridge from features of shape {student} to {teacher}: tap maps, tokens or vectors on both sides"
    )
