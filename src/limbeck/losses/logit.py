"""Losses that compare class distributions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.signals import same_shape


def cross_entropy(
    logits: Float[Tensor, "*b c"], target: Int[Tensor, "*b"] | Float[Tensor, "*b c"]
) -> Float[Tensor, "*b"]:
    """-sum_c q_c log softmax(logits)_c; q is the target: class numbers, or probabilities over the classes.

    A row whose class number is UNLABELLED gives 0, and no gradient.
    """
    if target.is_floating_point():
        return -(target * F.log_softmax(logits, -1)).sum(-1)
    flat = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=UNLABELLED, reduction="none")
    return flat.view(target.shape)


def kl(student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float = 1.0) -> Float[Tensor, "*b"]:
    """KL(teacher || student) in nats between softmax(logits / tau), times tau**2, so that the gradient's size does
    not depend on the temperature (Hinton et al. 2015, section 2)."""
    if tau <= 0:
        raise SettingError(f"a temperature is positive; got tau={tau}")
    same_shape("logits", student, teacher, "both must tell the same classes apart: rebuild the head of one of them")
    q, p = F.log_softmax(student / tau, -1), F.log_softmax(teacher / tau, -1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1) * tau**2
