"""Losses that tell an example's own row from others'."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.inputs import directions, wide
from limbeck.losses.logit import cross_entropy


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
    return F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)


def nt_xent(student: Float[Tensor, "b d"], teacher: Float[Tensor, "b d"], *, tau: float = 0.5) -> Float[Tensor, " b"]:
    """Each of the 2 b rows must tell its partner, the same example's row of the other side, from the 2 b - 2 others, by
    cosine over tau; the mean of an example's two cross-entropies (Chen et al. 2020, SimCLR, equation 1).

    As Tang et al. 2021, VidLanKD, take it, whose code divides the mean by 2 b again.
    """
    if tau <= 0:
        raise SettingError(f"a temperature is positive; got tau={tau}")
    z = directions(torch.cat([student, teacher]))
    scores = (z @ z.T / tau).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(student))
    return cross_entropy(scores, partner).view(2, -1).mean(0)
