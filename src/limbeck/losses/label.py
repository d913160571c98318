"""Losses that compare predictions with labels, and how much an example counts in them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.inputs import wide
from limbeck.losses.logit import cross_entropy

# --- direct coverage optimisation ---------------------------------------------------------------------------------


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Maechler 2012), with a finite gradient in either branch."""
    near = x > -math.log(2)
    return torch.where(near, (-x.expm1()).log(), (-x.clamp(max=-0.5).exp()).log1p())


def dco(log_p: Float[Tensor, "*b"], *, n: int | float) -> Float[Tensor, "*b"]:
    """-log(1 - (1 - p)^n): how unlikely it is that one of n samples is right (Chen et al. 2025, the DCO loss).

    log_p: log probability of the right answer, for a sequence the sum over its tokens; 0 gives 0.
    n: samples, at least 1, where it is the cross-entropy. For proofs in steps (DCO_step) give each step's log
        probability and n^(1 / steps); that exponent is a reading, the paper says "effective N".
    """
    if n < 1:
        raise SettingError(f"at least one sample is drawn; got n={n}")
    log_p = wide(log_p)
    sure = log_p.clamp(max=-1e-30)
    # below -80, where p may underflow, the loss is -log(n p)
    value = (-80.0 - sure).relu() - log1mexp(n * log1mexp(sure.clamp(min=-80.0)))
    return value.masked_fill(log_p == 0, 0.0)


def dco_factor(log_p: Float[Tensor, "*b"], *, n: int | float) -> Float[Tensor, "*b"]:
    """What `dco` multiplies the cross-entropy's gradient by: n (1 - p)^(n - 1) p / (1 - (1 - p)^n), in [0, 1], without
    gradient. As a weight it serves where p is measured otherwise: DCO_a takes p as the share of sampled chains of
    thought with the right answer, and weights the cross-entropy of the given chain."""
    with torch.enable_grad():
        own = log_p.detach().requires_grad_()
        (slope,) = torch.autograd.grad(dco(own, n=n).sum(), own)
    return -slope


# --- calibration --------------------------------------------------------------------------------------------------


def correctness_aware(
    logits: Float[Tensor, "b c"], y: Int[Tensor, " b"], *, balance: bool = True
) -> Float[Tensor, " b"]:
    """Squared difference between the largest probability and whether it is the label's (Liu et al. 2024; the authors'
    code, whose equation 7 speaks of the absolute difference).

    balance: right and wrong predictions count equally, whatever their numbers; the rows are scaled so that their mean
        over the labelled ones is the authors' sum(w e) / sum(w). Where all are right, or all wrong, that is 0 / 0 and
        here their plain mean. False: every row counts 1, and rows do not see each other.
    """
    known = y != UNLABELLED
    confidence, first = wide(logits).log_softmax(-1).max(-1)
    right = first == y
    error = (confidence.exp() - right.to(confidence)).square() * known
    if not balance:
        return error
    groups = torch.stack([right & known, ~right & known])
    sizes = groups.sum(1).to(error)
    share = known.sum() / (sizes > 0).sum().clamp(min=1) / sizes.clamp(min=1)
    return error * (share[:, None] * groups).sum(0)


# --- bias loss ----------------------------------------------------------------------------------------------------


def feature_variance(features: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """Unbiased variance of all numbers of an example's features, without gradient."""
    flat = wide(features.detach()).flatten(1)
    if flat.shape[1] < 2:
        raise ShapeError(f"a variance needs more than one number per example; the features are {tuple(features.shape)}")
    return flat.var(1)


def bias_weight(
    variance: Float[Tensor, " b"], *, alpha: float = 0.3, beta: float = 0.3, lowest: Float[Tensor, ""] | None = None
) -> Float[Tensor, " b"]:
    """exp(alpha u) - beta, u the variance on the batch's scale: examples with poor features count less (Abrahamyan
    et al. 2021; the authors' BiasLoss).

    lowest: where u is 0; None: at the batch's smallest variance, and the weights are in [1 - beta, e^alpha - beta]. The
        unit is the batch's range all the same, as in the authors' code, so u may exceed 1; alpha u is cut off at 60.
    A batch whose variances are all equal gives 1 - beta (the authors' code: nan).
    """
    least, most = variance.aminmax()
    spread = most - least
    above = variance - (least if lowest is None else lowest)
    scaled = torch.where(spread > 0, above / torch.where(spread > 0, spread, 1.0), 0.0)
    return (alpha * scaled).clamp(max=60.0).exp() - beta


# --- several branches ---------------------------------------------------------------------------------------------


def tri_bce(
    branches: Float[Tensor, "k b *c"], target: Int[Tensor, " b"] | Float[Tensor, "b *c"], *, detach: bool = False
) -> Float[Tensor, " b"]:
    """Cross-entropy of the mean of k branches' logits, plus each branch's own times how much worse it is than that
    mean, max(0, L_k - L) (Li et al. 2024, FCN, for two branches; the authors' add_loss).

    branches: (k, b) logits of the positive class with a target of probabilities, or (k, b, c) class logits.
    detach: take the gap as a mere weight, as the paper writes it; the authors' code lets the gradient through.

    The gap is between means over the labelled rows, so rows see each other; the mean of what is returned is theirs.
    """

    def own(logits: Tensor) -> Tensor:
        if logits.dim() == 1:
            return binary_cross_entropy(logits.unsqueeze(-1), target.unsqueeze(-1))
        return cross_entropy(logits, target)

    branches = wide(branches)
    fused, each = own(branches.mean(0)), torch.stack([own(logits) for logits in branches])
    known = len(target) if target.is_floating_point() else (target != UNLABELLED).sum().clamp(min=1)
    gap = ((each - fused).sum(1) / known).relu()
    return fused + ((gap.detach() if detach else gap)[:, None] * each).sum(0)
