"""Losses of independent yes-or-no questions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from limbeck.losses.inputs import wide


def binary_cross_entropy(logits: Float[Tensor, "*b q"], target: Float[Tensor, "*b q"]) -> Float[Tensor, "*b"]:
    """-(a log p + (1 - a) log(1 - p)) with p = sigmoid(logits), averaged over the questions (Lee et al. 2025, MaKD).

    target: a, probabilities in [0, 1]. At p = a it is the entropy of a, not 0.
    """
    return F.binary_cross_entropy_with_logits(wide(logits), wide(target), reduction="none").mean(-1)
