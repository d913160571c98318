"""Losses that treat the label's class apart from the others."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import comparable
from limbeck.losses.logit import cross_entropy, kl


def dkd(
    student: Float[Tensor, "*b c"],
    teacher: Float[Tensor, "*b c"],
    y: Int[Tensor, "*b"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    tau: float = 4.0,
) -> Float[Tensor, "*b"]:
    """tau**2 (alpha KL of (label's class, all others) + beta KL among the others), of distributions softened by tau
    (Zhao et al. 2022, DKD, and mdistiller's dkd_loss). 0 where y is UNLABELLED.

    The label's class is taken out exactly; the authors subtract 1000 from its logit.
    """
    own = y.clamp(min=0).unsqueeze(-1)
    pairs, rests = [], []
    for logits in comparable(student, teacher, tau=tau):
        rest = logits.scatter(-1, own, -1e30)  # not -inf: 0 * inf in the KL
        pairs.append(torch.cat([logits.gather(-1, own), tau * (rest / tau).logsumexp(-1, keepdim=True)], -1))
        rests.append(rest)
    return (alpha * kl(*pairs, tau=tau) + beta * kl(*rests, tau=tau)).masked_fill(y == UNLABELLED, 0.0)


def ofa(
    student: Float[Tensor, "*b c"],
    teacher: Float[Tensor, "*b c"],
    y: Int[Tensor, "*b"],
    *,
    eps: float,
    tau: float = 1.0,
    variant: Literal["code", "paper"] = "code",
) -> Float[Tensor, "*b"]:
    """-sum_c w_c log p_c, p the student's distribution and w the teacher's, q, with its label's class enhanced
    (Hao et al. 2023, OFA-KD). No factor of tau; eps > 0, and 1 is the plain cross-entropy. 0 where y is UNLABELLED.

    variant: "code", the authors' ofa_loss: w_c = q_c**eps, but (1 + q_y)**eps - 1 for the label's class;
        "paper": w_c = q_c, but (1 + q_y)**eps.
    """
    if eps <= 0:
        raise SettingError(f"eps is positive; got {eps}")
    student, teacher = comparable(student, teacher, tau=tau)
    own, q = y.clamp(min=0).unsqueeze(-1), (teacher / tau).softmax(-1)
    enhanced = (1 + q.gather(-1, own)) ** eps
    weights = (q**eps).scatter(-1, own, enhanced - 1) if variant == "code" else q.scatter(-1, own, enhanced)
    return cross_entropy(student / tau, weights).masked_fill(y == UNLABELLED, 0.0)
