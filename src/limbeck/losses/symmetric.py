"""A divergence in which student and teacher count alike."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.losses.inputs import log_probabilities


def symmetric_kl(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, eps: float = 1e-12
) -> Float[Tensor, "*b"]:
    """(KL(p || q) + KL(q || p)) / 2 of the two softmaxes in nats: half of Jeffreys' divergence and not `jsd`, though
    the authors call it Jensen-Shannon (Cui et al. 2021, SSLD; PaddleClas, dmlloss.py).

    eps: added to the probabilities within the logarithms, as in the authors' code, so that the value is at most
        -log(eps); 0 adds nothing.
    """
    q, p = log_probabilities(student, teacher, tau=1.0)
    floor = q.new_tensor(math.log(eps) if eps > 0 else -math.inf)
    ratio = torch.logaddexp(p, floor) - torch.logaddexp(q, floor)
    return ((p.exp() - q.exp()) * ratio).sum(-1) / 2
