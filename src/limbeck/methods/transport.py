"""Methods by optimal transport."""

from __future__ import annotations

from limbeck.blocks.logit import CE, KL
from limbeck.blocks.transport import Sinkhorn
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Cui et al. 2024, arXiv:2402.17110", needs=("teacher",), example={"kd": 0.9, "ot": 0.8})
def sinkd(*, kd: float, ot: float, tau: float = 2.0, eps: float = 0.1, iters: int = 20) -> Objective:
    """Match the batch's set of class distributions to the teacher's by optimal transport, beside kd.

    The authors' weights differ by task, as do their temperatures of the KD term, which has no tau**2: on GLUE it is
    (1 - a) CE + a / tau**2 KL(tau) + 0.8 * 0.001 * b * Sinkhorn() with a in 0.8-1, tau in 2-4 and b the batch size,
    since theirs is a sum over the batch. tau here is that of both terms.
    """
    return CE() + kd * KL(tau) + ot * Sinkhorn(tau, eps, iters)
