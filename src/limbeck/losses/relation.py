"""Losses that compare how the examples of a batch lie to each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.losses.inputs import directions, wide


def distances(x: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Euclidean distances, 0 on the diagonal, with a gradient that is finite there."""
    x = wide(x)
    x = x - x.detach().mean(0)  # far from the origin the squares would round the distances away
    squares = x.square().sum(1)
    return (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt() * ~torch.eye(
        len(x), dtype=torch.bool, device=x.device
    )


def relative(distance: Float[Tensor, "b b"]) -> Float[Tensor, "b b"]:
    """Distances in units of their mean over all pairs of different examples."""
    positive = distance > 0
    return distance / (distance.sum() / positive.sum().clamp(min=1)).clamp(min=1e-12)


def rkd_distance(student: Float[Tensor, "b d1"], teacher: Float[Tensor, "b d2"]) -> Float[Tensor, " b"]:
    """Huber loss between relative pairwise distances; row i is the mean over the partners j, itself included
    (Park et al. 2019, equations 5-7; the authors' RkdDistance)."""
    with torch.no_grad():
        target = relative(distances(teacher))
    return F.smooth_l1_loss(relative(distances(student)), target, reduction="none").mean(1)


def rkd_angle(student: Float[Tensor, "b d1"], teacher: Float[Tensor, "b d2"]) -> Float[Tensor, " b"]:
    """Huber loss between the cosines of the angles at example i towards all pairs j, k; the mean over them
    (Park et al. 2019, equations 8-10; the authors' RKdAngle). Memory is b**3."""

    def cosines(x: Tensor) -> Tensor:
        x = wide(x)
        differences = x[None] - x[:, None]
        rays = directions(differences)
        return rays @ rays.transpose(1, 2)

    with torch.no_grad():
        target = cosines(teacher)
    return F.smooth_l1_loss(cosines(student), target, reduction="none").mean((1, 2))
