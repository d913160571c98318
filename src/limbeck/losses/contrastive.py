"""Losses that tell an example's own row from others'."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SampledScores(torch.autograd.Function):
    """Dot products with sampled rows of a bank, without copying the rows: the sampled product is what torch computes
    as the gradient of an embedding bag's weights, and its own gradient is an embedding bag. A peer's copy of
    (b, k, d) rows is most of the cost of contrastive distillation."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        b, k = index.shape
        flat = index.reshape(-1)
        offsets = torch.arange(0, b * k, k, device=flat.device)
        bags = torch.arange(b, device=flat.device).repeat_interleave(k)
        ctx.save_for_backward(bank, index)
        scores: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            queries.contiguous(), bank, flat, offsets, bags, 0, -1
        )
        return scores.view(b, k)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        bank, index = ctx.saved_tensors
        own = torch.nn.functional.embedding_bag(index, bank, per_sample_weights=grads[0].contiguous(), mode="sum")
        return own, None, None


def sampled_scores(
    queries: Float[Tensor, "b d"], bank: Float[Tensor, "n d"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """scores[i, j] = queries[i] . bank[index[i, j]], in the bank's precision; the gradient goes to the queries."""
    scores: Tensor = SampledScores.apply(queries.to(bank.dtype), bank.detach(), index)  # type: ignore[no-untyped-call]
    return scores


def contrast(log_ratio: Float[Tensor, "b k"], *, noise: int) -> Float[Tensor, " b"]:
    """Noise-contrastive estimation against `k - 1` draws from the uniform distribution over `noise` examples
    (Tian et al. 2020, equation 19 and the authors' ContrastLoss, without its 1e-7 in the denominators).

    log_ratio: log of the unnormalised model's probability, exp(score / T) / Z; column 0 is the positive.
    """
    negatives = log_ratio.shape[1] - 1
    log_noise = math.log(negatives / noise)
    # log(p / (p + m Pn)) and log(m Pn / (p + m Pn)): a logistic loss on the log odds of data against noise
    odds = log_ratio - log_noise
    return torch.nn.functional.softplus(-odds[:, 0]) + torch.nn.functional.softplus(odds[:, 1:]).sum(1)
