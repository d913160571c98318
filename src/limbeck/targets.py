"""Transforms of what the teacher says, before a loss sees it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError


def one_hot(y: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(b, classes) of 0 and 1; a row of zeros where y is UNLABELLED."""
    known = (y != UNLABELLED).to(dtype).unsqueeze(1)
    return F.one_hot(y.clamp(min=0), num_classes).to(dtype) * known


def mix(truth: Tensor, other: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) truth + alpha other: probabilities (b, classes)."""
    return (1 - alpha) * truth + alpha * other


def pooled(logits: Tensor, mean: Literal["arithmetic", "geometric"]) -> Tensor:
    """The mean of several models' probabilities as logits, up to a constant: (models, b, classes) -> (b, classes).
    The geometric mean is that of the logits."""
    return logits.mean(0) if mean == "geometric" else logits.log_softmax(-1).logsumexp(0)


def pseudo_label(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The most probable class (b,), and whether its probability reaches the threshold: (b,) of 0.0 and 1.0."""
    confidence, label = logits.detach().softmax(-1).max(-1)
    return label, (confidence >= threshold).to(confidence)


def smooth(y: Tensor, num_classes: int, eps: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """(b, classes): 1 - eps on the label and eps / (classes - 1) on each other class; zeros where y is UNLABELLED."""
    truth = one_hot(y, num_classes, dtype)
    others = (truth.sum(1, keepdim=True) - truth) / (num_classes - 1)
    return mix(truth, others, eps)


def recover(value: Tensor, index: Tensor, num_classes: int, *, rest: Literal["spread", "drop"] = "spread") -> Tensor:
    """(b, classes) probabilities of which only the largest k were stored (Shen & Xing 2022, FKD, Recover_soft_label).

    value (b, k): the stored probabilities. index (b, k): their classes. rest: what becomes of the missing mass.
        "spread": each other class gets an equal share, the authors' marginal_smoothing, and smoothing for k = 1.
        "drop": they get 0 and the stored ones are divided by their sum, marginal_renorm, and the hard label for k = 1.
    """
    total = value.sum(-1, keepdim=True)
    if rest == "drop":
        return value.new_zeros(len(value), num_classes).scatter(-1, index, value / total)
    others = (1 - total).clamp(min=0) / max(1, num_classes - value.shape[-1])
    return others.repeat(1, num_classes).scatter(-1, index, value)


def route_by_confidence(
    soft: Tensor, y: Tensor, *, low: float, middle: float, high: float, eps: float, of: Literal["max", "true"] = "max"
) -> tuple[Tensor, Tensor]:
    """What to learn of each example, (b, classes), and whether to, (b,) bool, by the teacher's confidence in it
    (Shen 2023, FerKD): nothing below `low` or above `high`; the smoothed label below `middle`; else the teacher's
    probabilities `soft` (b, classes), as for every example without a label.

    of: the confidence is the largest probability, or the true class's.
    """
    if not 0 <= low <= middle <= high <= 1:
        raise SettingError(f"thresholds rise from 0 to 1; got low={low}, middle={middle}, high={high}")
    known = y != UNLABELLED
    confidence = soft.amax(-1)
    if of == "true":
        confidence = torch.where(known, soft.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1), confidence)
    hard = (known & (confidence < middle)).unsqueeze(-1)
    target = torch.where(hard, smooth(y, soft.shape[-1], eps, soft.dtype), soft)
    return target, (low <= confidence) & (confidence <= high)


def subclass_split(logits: Tensor, scores: Tensor, *, beta: float = 1.0) -> Tensor:
    """(b, classes, parts) probabilities: softmax(logits) (b, classes), each split by the softmax of beta times its
    scores (b, classes, parts) (Loo et al. 2024, LELP)."""
    return logits.softmax(-1).unsqueeze(-1) * (beta * scores).softmax(-1)
