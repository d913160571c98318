"""Losses on joint labels: which class, and which of m transformations of the input."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import ShapeError
from limbeck.losses.logit import cross_entropy


def joint_cross_entropy(joint: Float[Tensor, "b m km"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Cross-entropy with the class y * m + i for the input's i-th transformation, the mean over the m of them
    (Lee et al. 2020, SLA). 0 where y is UNLABELLED."""
    m = joint.shape[1]
    labels = y.unsqueeze(1) * m + torch.arange(m, device=y.device)
    labels = labels.masked_fill((y == UNLABELLED).unsqueeze(1), UNLABELLED)
    return cross_entropy(joint, labels).mean(1)


def aggregate(joint: Float[Tensor, "b m km"]) -> Float[Tensor, "b k"]:
    """Logits of the classes from those of the m transformed inputs: each says what it thinks of the transformation
    that it did have, and the mean is taken of the logits (Lee et al. 2020, SLA)."""
    m = joint.shape[1]
    if joint.shape[2] % m:
        raise ShapeError(f"joint logits of {m} transformations are a multiple of {m}; got {tuple(joint.shape)}")
    own: Tensor = joint.unflatten(2, (-1, m)).diagonal(dim1=1, dim2=3)
    return own.mean(-1)
