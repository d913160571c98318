"""Noise on hidden states, and what a model's clean pass teaches its noisy ones (Khadangi et al. 2025, NoiseFiT)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.losses.inputs import wide
from limbeck.losses.logit import kl


def adaptive_noise(
    hidden: Float[Tensor, "b t d"],
    z: Float[Tensor, "b t d"],
    *,
    std: float,
    beta: float = 0.1,
    eps: float = 1e-6,
    most: float = 5.0,
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t d"]:
    """hidden + std s exp(-beta |h - m| / s) f z: m the median of a token's features, s their median distance from it,
    f = exp(their variance / its mean over the tokens), at most `most` (NoiseFiT_v1_manual_snr.py, with
    `std` once where its hook passes std**3).

    z: standard normal numbers. mask: the tokens over which the mean variance is taken, e.g. without padding.
    """
    h = wide(hidden)
    away = (h - h.median(-1, keepdim=True).values).abs()
    scale = away.median(-1, keepdim=True).values.maximum(eps * h.norm(dim=-1, keepdim=True))
    variance = h.var(-1, keepdim=True)
    counted = variance if mask is None else variance[mask]
    factor = (variance / (counted.mean() + eps)).exp().clamp(max=most)
    return (h + z * std * scale * (-beta * away / (scale + eps)).exp() * factor).to(hidden.dtype)


def signal_to_noise(clean: Tensor, noisy: Tensor) -> Tensor:
    """mean |clean| / mean |noisy - clean| of one layer's outputs: a number by which to choose the layers to perturb."""
    return wide(clean).abs().mean() / (wide(noisy) - wide(clean)).abs().mean()


def noisy_kl(
    clean: Float[Tensor, "*b c"], noisy: Float[Tensor, "k *b c"], *, tau: float = 1.0, detach: bool = False
) -> Float[Tensor, "*b"]:
    """KL(softmax(clean / tau) || softmax(noisy)) in nats, the mean over k noisy passes.

    The gradient also flows into the clean pass, as in the authors' code, unless it is detached. No factor of tau.
    """
    target = (clean.detach() if detach else clean) / tau
    return kl(noisy, target.expand_as(noisy)).mean(0)
