"""Optimal transport between the examples of a batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.inputs import log_probabilities


def sinkhorn(
    cost: Float[Tensor, "*b n m"],
    *,
    eps: float,
    iters: int,
    rows: Float[Tensor, "*b n"] | None = None,
    columns: Float[Tensor, "*b m"] | None = None,
) -> Float[Tensor, "*b n m"]:
    """Logarithm of the entropic transport plan: exp(-cost / eps), whose rows and then columns are scaled to the given
    sums, `iters` times (Cuturi 2013, algorithm 1). After the last round only the columns' sums are exact.

    rows, columns: the sums, >= 0, with the same total; None: all 1. The gradient flows through all rounds.
    """
    if eps <= 0 or iters < 1:
        raise SettingError(f"sinkhorn takes eps > 0 and iters >= 1; got eps={eps}, iters={iters}")
    kernel = -cost / eps
    log_rows, log_columns = (0.0 if each is None else each.log() for each in (rows, columns))
    g = kernel.new_zeros(())
    for _ in range(iters):
        f = log_rows - (kernel + g).logsumexp(-1)
        g = (log_columns - (kernel + f.unsqueeze(-1)).logsumexp(-2)).unsqueeze(-2)
    return kernel + f.unsqueeze(-1) + g


def sinkhorn_distance(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    *,
    tau: float = 2.0,
    eps: float = 0.1,
    iters: int = 20,
) -> Float[Tensor, " b"]:
    """What it costs to carry the students' distributions of a batch to the teachers': sum_ij P_ij C_ij with
    C_ij = sum_c |softmax(student_i / tau)_c - softmax(teacher_j / tau)_c| and P the plan of `sinkhorn` whose rows and
    columns sum to 1 (Cui et al. 2024, SinKD, and the authors' loss.py, Sinkhorn). No factor of tau.

    Row i is sum_j P_ij C_ij. The sum over the rows is the authors' number, at most 2 b, without their constant of
    0.001 or 0.0008. In a batch of one it is the plain L1 distance.
    """
    q, p = log_probabilities(student, teacher, tau=tau)
    cost = torch.cdist(q.exp(), p.exp(), p=1)
    return (sinkhorn(cost, eps=eps, iters=iters).exp() * cost).sum(1)
