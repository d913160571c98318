"""Relatives of the cross-entropy that withstand wrong labels or moved inputs."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import wide
from limbeck.losses.logit import cross_entropy

# --- comp-sum -----------------------------------------------------------------------------------------------------


def comp_sum(
    logits: Float[Tensor, "*b c"], target: Int[Tensor, "*b"] | Float[Tensor, "*b c"], *, tau: float
) -> Float[Tensor, "*b"]:
    """(p^(tau - 1) - 1) / (1 - tau) of the label's probability p (Mao et al. 2023, the comp-sum family).

    tau: >= 0. 0: sum of exponentials; 1: cross-entropy; between 1 and 2: generalised cross-entropy with q = tau - 1;
        2: 1 - p, half the absolute error. The gradient in log p is -p^(tau - 1).
    A target of probabilities sums the losses of all classes with these weights (our reading; the paper has labels).
    Below tau = 1 the loss is unbounded; where p^(tau - 1) passes e^60 it goes on as a straight line.
    """
    if tau < 0:
        raise SettingError(f"tau is at least 0; got {tau}")
    if target.is_floating_point():
        return (target * complement(wide(logits).log_softmax(-1), tau)).sum(-1)
    return complement(-cross_entropy(logits, target), tau)


def complement(log_p: Tensor, tau: float) -> Tensor:
    """Phi_tau(1 / p - 1)."""
    if abs(tau - 1) < 1e-6:
        return -log_p
    power = (tau - 1) * log_p
    return (power.clamp(max=60.0).expm1() + math.exp(60) * (power - 60.0).relu()) / (1 - tau)


def margin_shift(
    logits: Float[Tensor, "*b c"], moved: Float[Tensor, "*b c"], y: Int[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """How far the differences s_y - s_k have moved: Euclidean length over the classes k; gradient 0 where it is 0."""
    move = wide(moved) - wide(logits)
    shift: Tensor = torch.linalg.vector_norm(move.gather(-1, y.clamp(min=0).unsqueeze(-1)) - move, dim=-1)
    return torch.where(y != UNLABELLED, shift, 0.0)


def smooth_adv_comp_sum(
    logits: Float[Tensor, "*b c"],
    moved: Float[Tensor, "*b c"],
    y: Int[Tensor, "*b"],
    *,
    tau: float = 1.0,
    rho: float = 1.0,
    nu: float = 1.0,
) -> Float[Tensor, "*b"]:
    """comp_sum of logits / rho, plus nu times `margin_shift` to the logits of the worst input nearby (Mao et al. 2023,
    the smooth adversarial comp-sum loss; from memory of the paper).

    rho: margin, > 0. nu: >= sqrt(c - 1) / rho in the theory, tuned in practice.
    """
    if rho <= 0:
        raise SettingError(f"a margin is positive; got rho={rho}")
    return comp_sum(wide(logits) / rho, y, tau=tau) + nu * margin_shift(logits, moved, y)


# --- label distributional robustness ------------------------------------------------------------------------------

#: Before the division by the mean size of an example's scores: nothing, or softplus.
Scores = Literal["softplus", "l1"]


def unit_scores(logits: Float[Tensor, "*b c"], how: Scores) -> Float[Tensor, "*b c"]:
    """Scores whose absolute values have the mean 1 in each row (a row of nearly zeros, < 1e-12, stays)."""
    logits = wide(logits)
    if how == "softplus":
        # below -36, softplus(s) = exp(s), which may underflow in all of a row
        log_scores = torch.where(logits < -36.0, logits, F.softplus(logits.clamp(min=-36.0)).log())
        return logits.shape[-1] * log_scores.softmax(-1)
    size = logits.abs().mean(-1, keepdim=True)
    return logits / torch.where(size > 1e-12, size, 1.0)


def ldr(
    logits: Float[Tensor, "*b c"],
    y: Int[Tensor, "*b"],
    *,
    lam: float | Float[Tensor, "*b"] = 10.0,
    margin: float = 0.1,
    scores: Scores = "softplus",
) -> Float[Tensor, "*b"]:
    """lam log mean_k exp(d_k / lam), d_k = z_k - z_y + margin [k != y]: the worst case over a distribution on the
    classes that stays near uniform, max_p p.d - lam KL(p || 1/c) (Zhu et al. 2023, LDR-KL; the authors' LDRLoss_V1).
    z are the logits after softplus, each row divided by its mean.

    lam: > 0; small: towards the largest margin, large: towards the mean, robust. A tensor: one for each example.
    """
    if not isinstance(lam, Tensor) and lam <= 0:
        raise SettingError(f"lam is positive; got {lam}")
    z, own = unit_scores(logits, scores), y.clamp(min=0).unsqueeze(-1)
    d = (z - (z.gather(-1, own) - margin)).scatter(-1, own, 0.0)
    worst = (d / (lam.unsqueeze(-1) if isinstance(lam, Tensor) else lam)).logsumexp(-1) - math.log(d.shape[-1])
    return torch.where(y != UNLABELLED, lam * worst, 0.0)


def aldr(
    logits: Float[Tensor, "*b c"],
    y: Int[Tensor, "*b"],
    lam: Float[Tensor, "*b"],
    *,
    lam0: float = 10.0,
    alpha: float = 2.0,
    margin: float = 0.1,
    scores: Scores = "l1",
) -> Float[Tensor, "*b"]:
    """`ldr` with a lam for each example, less alpha log(c) / (2 lam0) (lam - lam0)^2 (Zhu et al. 2023, ALDR-KL; the
    authors' ALDRLoss_V1). lam, from `aldr_lambda`, gets no gradient, so the second part changes only the value."""
    lam = lam.detach()
    pull = alpha * math.log(logits.shape[-1]) / (2 * lam0) * (lam - lam0).square()
    return ldr(logits, y, lam=lam, margin=margin, scores=scores) - torch.where(y != UNLABELLED, pull, 0.0)


def aldr_lambda(
    logits: Float[Tensor, "*b c"],
    lam: Float[Tensor, "*b"],
    *,
    lam0: float = 10.0,
    alpha: float = 2.0,
    scores: Scores = "l1",
) -> Float[Tensor, "*b"]:
    """The examples' next lam, one step towards the optimum: lam0 (1 - KL(p || 1/c) / (alpha log c)) with
    p = softmax(z / lam), smoothed by 1e-5 as in the authors' code. Sure predictions get a small one; no gradient.

    alpha: > 1, which keeps lam positive.
    """
    if alpha <= 1 or lam0 <= 0:
        raise SettingError(f"lam stays positive for alpha > 1 and lam0 > 0 only; got alpha={alpha}, lam0={lam0}")
    with torch.no_grad():
        p = (unit_scores(logits, scores) / lam.unsqueeze(-1)).softmax(-1) + 1e-5
        p = p / p.sum(-1, keepdim=True)
        c = p.shape[-1]
        return lam0 - lam0 * (p * (c * p).log()).sum(-1) / (alpha * math.log(c))
