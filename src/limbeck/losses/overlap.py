"""Losses that are one minus a metric of overlap: Dice, and all that a confusion matrix gives."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import wide
from limbeck.targets import one_hot

#: What `anyloss` makes large.
Metric = Literal["fbeta", "accuracy", "gmean", "balanced_accuracy"]


def spread(value: Float[Tensor, "*k"], mask: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The mean of a batch's values as one number per row, 0 outside of the mask: their mean over its rows is it."""
    return torch.where(mask, value.mean(), 0.0)


def everyone(rows: Tensor) -> Bool[Tensor, " b"]:
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device)


# --- Dice ---------------------------------------------------------------------------------------------------------


def log_complement(log_p: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """log(1 - p) of rows of log probabilities, exact too where a probability rounds to 1."""
    top = log_p.argmax(-1, keepdim=True)
    rest = log_p.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    return (-log_p.exp().scatter(-1, top, 0.0)).log1p().scatter(-1, top, rest)


def dice(
    logits: Float[Tensor, "b c"],
    target: Int[Tensor, " b"] | Float[Tensor, "b c"],
    *,
    alpha: float = 0.01,
    smooth: float = 1.0,
    square: bool = True,
) -> Float[Tensor, " b"]:
    """sum_c 1 - (2 q_c y_c + g) / (q_c^2 + y_c^2 + g) of q = (1 - p)^alpha p, the probabilities with easy examples
    turned down (Li et al. 2020; the authors' DiceLoss for several classes). The gradient also flows through
    (1 - p)^alpha.

    target: class numbers, or probabilities such as a teacher's. alpha: 1 in the paper, 0.01 in all of the authors'
    scripts. smooth: g > 0. square: False puts q and y themselves, summed over the whole batch as in the authors' code,
    into the denominator; rows then see each other.
    """
    positive(smooth)
    logits = wide(logits)
    if target.is_floating_point():
        known, y = everyone(target), target.to(logits)
    else:
        known, y = target != UNLABELLED, one_hot(target, logits.shape[-1], logits.dtype)
    log_p = logits.log_softmax(-1)
    q = (alpha * log_complement(log_p) + log_p).exp()
    below = q.square() + y.square() if square else (q.masked_fill(~known[:, None], 0.0) + y).sum(0)
    return torch.where(known, apart(q * y, below, smooth).sum(-1), 0.0)


def dice_set(
    logits: Float[Tensor, "b *k"],
    target: Float[Tensor, "b *k"],
    *,
    mask: Bool[Tensor, " b"] | None = None,
    alpha: float = 0.01,
    smooth: float = 1.0,
    square: bool = True,
    ohem: float = 0.0,
) -> Float[Tensor, " b"]:
    """As `dice`, for the logit of a yes, with sums over the whole batch: 1 - (2 sum q y + g) / (sum q^2 + sum y^2 + g)
    (Li et al. 2020; the authors' DiceLoss for one logit). Every row of the mask holds this number, so their mean is it.
    Several columns are problems of their own, whose mean is taken.

    ohem: of the negatives only the hardest count, r of them per positive, if it is > 0: those strictly above the score
        that the authors' code takes as the threshold, which are two fewer than r times the positives (at least 0; the
        authors' threshold means something else there).
    """
    positive(smooth)
    mask = everyone(logits) if mask is None else mask
    z, y = wide(logits).reshape(len(mask), -1), target.reshape(len(mask), -1)
    counted = mask[:, None]
    if ohem > 0:
        yes, no = (y > 0.5) & counted, (y <= 0.5) & counted
        counted = yes | hardest(z.detach(), no, ohem * yes.sum(0))
    counted = counted.to(z)
    y = y.to(z) * counted
    log_p = F.logsigmoid(z)
    q = (alpha * (log_p - z) + log_p).exp() * counted  # log p - z: of the complement
    below = q.square() + y.square() if square else q + y
    return spread(apart((q * y).sum(0), below.sum(0), smooth), mask)


def apart(both: Tensor, below: Tensor, smooth: float) -> Tensor:
    """1 - (2 both + smooth) / (below + smooth), exact too where it is nearly 0, as for most of many classes."""
    return (below - 2 * both) / (below + smooth)


def hardest(scores: Float[Tensor, "b k"], among: Bool[Tensor, "b k"], most: Float[Tensor, " k"]) -> Bool[Tensor, "b k"]:
    """Those above the (most - 1)-th largest score in their column."""
    ranked = scores.masked_fill(~among, -torch.inf).sort(0, descending=True).values
    place = torch.minimum(most.long(), among.sum(0)) - 2
    threshold = ranked.gather(0, place.clamp(min=0)[None])[0].masked_fill(place < 0, torch.inf)
    return among & (scores > threshold)


def positive(smooth: float) -> None:
    if smooth <= 0:
        raise SettingError(f"smooth is positive, or a class that nobody has gives 0 / 0; got {smooth}")


# --- the confusion matrix -----------------------------------------------------------------------------------------


def soft_confusion(
    p: Float[Tensor, "b *k"],
    target: Float[Tensor, "b *k"],
    *,
    steepness: float = 73.0,
    threshold: float = 0.5,
    mask: Bool[Tensor, " b"] | None = None,
) -> tuple[Float[Tensor, "*k"], Float[Tensor, "*k"], Float[Tensor, "*k"], Float[Tensor, "*k"]]:
    """True positives, false negatives, false positives and true negatives of nearly hard predictions
    sigmoid(steepness (p - threshold)) (Han et al. 2024). The target may be soft."""
    away = steepness * (wide(p) - threshold)
    yes, no, y = away.sigmoid(), (-away).sigmoid(), target.to(away)  # not 1 - yes, which may round to 0
    kept = torch.ones_like(y) if mask is None else mask.to(y).view(-1, *[1] * (y.dim() - 1))
    right, wrong = y * kept, (1 - y) * kept
    return (right * yes).sum(0), (right * no).sum(0), (wrong * yes).sum(0), (wrong * no).sum(0)


def anyloss(
    p: Float[Tensor, "b *k"],
    target: Float[Tensor, "b *k"],
    *,
    metric: Metric = "fbeta",
    beta: float = 1.0,
    steepness: float = 73.0,
    threshold: float = 0.5,
    mask: Bool[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """One minus a metric of the batch's `soft_confusion` (Han et al. 2024; the authors' notebook). Every row
    of the mask holds this number, so their mean is it. Several columns are problems of their own, whose mean is taken.

    p: PROBABILITIES of a yes, not logits. metric: F-beta, accuracy, the geometric mean of both recalls, or their mean.
    Without positives (negatives) in the batch, their recall counts as 0, without a gradient. The number of rows is the
    batch's, not the training set's as in the authors' notebook.
    """
    tp, fn, fp, tn = soft_confusion(p, target, steepness=steepness, threshold=threshold, mask=mask)
    recall, rejection = share(tp, fn), share(tn, fp)
    if metric == "fbeta":
        value = share((1 + beta**2) * tp, beta**2 * fn + fp)
    elif metric == "accuracy":
        value = share(tp + tn, fn + fp)
    elif metric == "balanced_accuracy":
        value = (recall + rejection) / 2
    elif metric == "gmean":
        value = (recall * rejection).clamp(min=torch.finfo(recall.dtype).tiny).sqrt()  # no infinite slope at 0
    else:
        raise SettingError(f"a metric is 'fbeta', 'accuracy', 'gmean' or 'balanced_accuracy'; got {metric!r}")
    return spread(1 - value, everyone(p) if mask is None else mask)


def share(part: Tensor, rest: Tensor) -> Tensor:
    """part / (part + rest), 0 where there is neither."""
    whole = part + rest
    return part / torch.where(whole > 0, whole, 1.0)
