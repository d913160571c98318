"""Losses that compare class distributions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.losses.inputs import log_probabilities, wide


def cross_entropy(
    logits: Float[Tensor, "*b c"], target: Int[Tensor, "*b"] | Float[Tensor, "*b c"]
) -> Float[Tensor, "*b"]:
    """-sum_c q_c log softmax(logits)_c; q is the target: class numbers, or probabilities over the classes.

    A row whose class number is UNLABELLED gives 0, and no gradient.
    """
    logits = wide(logits)
    if target.is_floating_point():
        return -(target * logits.log_softmax(-1)).sum(-1)
    flat = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=UNLABELLED, reduction="none")
    return flat.view(target.shape)


def kl(student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float = 1.0) -> Float[Tensor, "*b"]:
    """KL(teacher || student) in nats between softmax(logits / tau), times tau**2, so that the gradient's size does
    not depend on the temperature (Hinton et al. 2015, section 2)."""
    q, p = log_probabilities(student, teacher, tau=tau)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1) * tau**2
