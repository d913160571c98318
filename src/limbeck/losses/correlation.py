"""Losses that ask for equal order and proportion, not for equal numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.losses.inputs import comparable, wide


def centred(
    x: Float[Tensor, "*b c"],
) -> tuple[Float[Tensor, "*b c"], Float[Tensor, "*b 1"], Bool[Tensor, "*b 1"]]:
    """In float32 at least: rows minus their mean, the lengths of these, and which rows are constant but for rounding:
    they have no direction, and a division by their length, here 1, would be a division by noise."""
    x = wide(x)
    mean = x.mean(-1, keepdim=True)
    rest = x - mean
    squares = rest.square().sum(-1, keepdim=True)
    flat = squares.sqrt() <= 4 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps * mean.abs()
    return rest, squares.masked_fill(flat, 1.0).sqrt(), flat


def pearson(a: Float[Tensor, "*b c"], b: Float[Tensor, "*b c"], *, eps: float = 1e-8) -> Float[Tensor, "*b"]:
    """Pearson's correlation of the rows of a and b, in [-1, 1]; 0, without gradient, where either row is constant.

    eps is added to the product of the lengths, so rows with less spread than that count as uncorrelated.
    """
    (a, length_a, flat_a), (b, length_b, flat_b) = centred(a), centred(b)
    product = (length_a * length_b + eps).masked_fill(flat_a | flat_b, torch.inf)
    return (a * b).sum(-1) / product.squeeze(-1)


def standardise(logits: Float[Tensor, "*b c"], *, eps: float = 1e-7) -> Float[Tensor, "*b c"]:
    """Logits minus their mean, divided by their standard deviation + eps (Sun et al. 2024; as in the authors' KD.py,
    normalize, the deviation is that with c - 1). All 0, without gradient, where all logits are equal."""
    rest, length, flat = centred(logits)
    scores: Tensor = rest / (length / (logits.shape[-1] - 1) ** 0.5 + eps).masked_fill(flat, torch.inf)
    return scores


def dist(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
) -> Float[Tensor, " b"]:
    """tau**2 (beta (1 - correlation of the two distributions of an example) + gamma (1 - correlation of the two
    columns of a class, the mean over the classes)) (Huang et al. 2022, DIST, and the authors' code).

    The second part belongs to the batch as a whole: every row gets the same. In a batch of one it is the constant
    gamma tau**2. By the authors' eps of 1e-8, classes that the whole batch deems improbable count as uncorrelated, so
    the loss of equal logits is not quite 0.
    """
    student, teacher = comparable(student, teacher, tau=tau)
    q, p = F.softmax(student / tau, -1), F.softmax(teacher / tau, -1)
    return tau**2 * (beta * (1 - pearson(q, p)) + gamma * (1 - pearson(q.T, p.T).mean()))
