"""Transforms of what the teacher says, before a loss sees it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.named import UNLABELLED


def one_hot(y: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(b, classes) of 0 and 1; a row of zeros where y is UNLABELLED."""
    known = (y != UNLABELLED).to(dtype).unsqueeze(1)
    return F.one_hot(y.clamp(min=0), num_classes).to(dtype) * known


def mix(truth: Tensor, other: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) truth + alpha other: probabilities (b, classes)."""
    return (1 - alpha) * truth + alpha * other


def pseudo_label(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The most probable class (b,), and whether its probability reaches the threshold: (b,) of 0.0 and 1.0."""
    confidence, label = logits.detach().softmax(-1).max(-1)
    return label, (confidence >= threshold).to(confidence)
