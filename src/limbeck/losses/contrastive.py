"""Losses that tell an example's own row from others'."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.losses.inputs import wide


def sampled_scores(
    queries: Float[Tensor, "b d"], bank: Float[Tensor, "n d"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """scores[i, j] = queries[i] . bank[index[i, j]], in the bank's precision; the gradient goes to the queries.

    The product with the whole bank costs less than copying (b, k, d) rows as long as the bank has few times k rows.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return (queries.to(bank.dtype) @ bank.detach().T).gather(1, index)


def contrast(log_ratio: Float[Tensor, "b k"], *, noise: int) -> Float[Tensor, " b"]:
    """Noise-contrastive estimation against `k - 1` draws from the uniform distribution over `noise` examples
    (Tian et al. 2020, equation 19 and the authors' ContrastLoss, without its 1e-7 in the denominators).

    log_ratio: log of the unnormalised model's probability, exp(score / T) / Z; column 0 is the positive.
    """
    negatives = log_ratio.shape[1] - 1
    log_noise = math.log(negatives / noise)
    # log(p / (p + m Pn)) and log(m Pn / (p + m Pn)): a logistic loss on the log odds of data against noise
    odds = wide(log_ratio) - log_noise
    return torch.nn.functional.softplus(-odds[:, 0]) + torch.nn.functional.softplus(odds[:, 1:]).sum(1)
