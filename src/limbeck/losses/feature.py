"""Losses that compare features of the same examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ShapeError
from limbeck.losses.inputs import directions, wide
from limbeck.signals import same_shape


def mse(student: Float[Tensor, "b *d"], teacher: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """Mean squared difference over all features of an example."""
    same_shape("features", student, teacher, "map one to the other with a bridge: Hint(layer) has one")
    return (wide(student) - wide(teacher)).square().flatten(1).mean(1)


def masked_mse(
    student: Float[Tensor, "b *d"], teacher: Float[Tensor, "b *d"], mask: Bool[Tensor, "b *m"]
) -> Float[Tensor, " b"]:
    """Mean squared difference over those features of an example that the mask, broadcast to them, lets count: states of
    tokens (b, n, width) under (b, n, 1), attention (b, heads, n, n) under (b, 1, n, 1). 0 where none counts."""
    same_shape("features", student, teacher, "map one to the other, or compare other layers")
    mask = mask.expand_as(student)
    squares = torch.where(mask, wide(student) - wide(teacher), 0.0).square()  # not `*`: padding may hold nan
    return squares.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def attention_map(features: Float[Tensor, "b c h w"], *, size: tuple[int, int]) -> Float[Tensor, "b hw"]:
    """Where a layer is active: the channels' mean square at each place, pooled to `size`, as a unit vector
    (Zagoruyko & Komodakis 2017, F_sum^2 and its normalisation)."""
    features = wide(features)
    features = F.adaptive_avg_pool2d(features, size) if features.shape[2:] != size else features
    return F.normalize(features.square().mean(1).flatten(1))


def attention_transfer(
    student: Float[Tensor, "b c1 h1 w1"], teacher: Float[Tensor, "b c2 h2 w2"]
) -> Float[Tensor, " b"]:
    """Mean squared difference of two attention maps. Channels may differ; the larger map is pooled to the smaller.

    As in the authors' code (attention-transfer, utils.at_loss): the mean of squares, where the paper's equation 2 has
    the norm; their weight of 1000 belongs to this form.
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return (attention_map(student, size=size) - attention_map(teacher, size=size)).square().mean(1)


def nst(
    student: Float[Tensor, "b n1 *p"], teacher: Float[Tensor, "b n2 *p"], *, constant: bool = True
) -> Float[Tensor, " b"]:
    """Squared maximum mean discrepancy, with the kernel (u . v)^2, between the student's and the teacher's neurons,
    each a unit vector over the places (Huang & Wang 2017, NST; Tang et al. 2021, VidLanKD, over a sentence's tokens).

    constant: with the mean over pairs of the teacher's neurons. Without, as in VidLanKD's loss.py, the gradient is the
        same and the value may be negative.
    """
    if student.shape[2:] != teacher.shape[2:]:
        raise ShapeError(
            f"the student has places {tuple(student.shape[2:])}, the teacher {tuple(teacher.shape[2:])}: resize one"
        )
    s, t = directions(student.flatten(2)), directions(teacher.flatten(2))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """The mean over all pairs of neurons, from the smaller of two matrices: of neurons or of places."""
        if a.shape[2] < min(a.shape[1], b.shape[1]):
            return ((a.mT @ a) * (b.mT @ b)).sum((1, 2)) / (a.shape[1] * b.shape[1])
        return (a @ b.mT).square().mean((1, 2))

    value = kernel(s, s) - 2 * kernel(s, t)
    return value + kernel(t, t) if constant else value
