"""Losses that teach an order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.losses.inputs import comparable, wide


def plackett_luce(scores: Float[Tensor, "*b c"], weights: Float[Tensor, "*b c"]) -> Float[Tensor, "*b"]:
    """-sum_k weights_k log P(item k is chosen from the items k, k + 1, ...), items being given in their order, the
    best first, and chosen with probabilities softmax(scores) of those that are left.

    Weights (1, 0, ...) give the cross-entropy with the first item, equal ones ListMLE (Xia et al. 2008).
    """
    scores = wide(scores)
    left = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (weights * (left - scores)).sum(-1)


def pld(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], y: Int[Tensor, "*b"], *, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """Plackett-Luce loss of the ranking that has the label first and then the teacher's order; each place counts by
    the teacher's probability, softened by tau, of the class that is there (Bassam et al. 2025, PLD,
    appendix C).

    The student is not softened and there is no factor of tau. Of equal logits the lower class number comes first.
    0 where y is UNLABELLED.
    """
    student, teacher = comparable(student, teacher, tau=tau)
    first = teacher.scatter(-1, y.clamp(min=0).unsqueeze(-1), torch.inf)
    order = first.argsort(dim=-1, descending=True, stable=True)
    weights = F.softmax(teacher / tau, -1).gather(-1, order)
    return plackett_luce(student.gather(-1, order), weights).masked_fill(y == UNLABELLED, 0.0)
