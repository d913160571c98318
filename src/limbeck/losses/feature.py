"""Losses that compare features of the same examples."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.losses.inputs import wide
from limbeck.signals import same_shape


def mse(student: Float[Tensor, "b *d"], teacher: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """Mean squared difference over all features of an example."""
    same_shape("features", student, teacher, "map one to the other with a bridge: Hint(layer) has one")
    return (wide(student) - wide(teacher)).square().flatten(1).mean(1)


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
