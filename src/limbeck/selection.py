"""Which examples are worth learning from: thresholds that follow the training, and samples drawn of a pool."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """Moving averages of a score, of all examples and per class, as in FreeMatch (Wang et al. 2023): a threshold for
    each class that rises with what is reached.

    overall: (). classes: (classes,).
    """

    overall: Tensor
    classes: Tensor

    def after(self, score: Tensor, label: Tensor, momentum: float) -> Level:
        """These averages after a batch of scores (b,) of examples of classes label (b,); an absent class's stays."""
        total = torch.zeros_like(self.classes).index_add(0, label, score.to(self.classes))
        count = torch.bincount(label, minlength=len(self.classes))
        mean = torch.where(count > 0, total / count.clamp(min=1), self.classes)
        return Level(
            momentum * self.overall + (1 - momentum) * score.mean().to(self.overall),
            momentum * self.classes + (1 - momentum) * mean,
        )

    @property
    def thresholds(self) -> Tensor:
        """(classes,): the overall level times each class's share of the largest."""
        return self.overall * self.classes / self.classes.max()


def llkd_weights(
    confidence: Tensor, uncertainty: Tensor, label: Tensor, *, sure: Level, unsure: Level
) -> tuple[Tensor, Tensor]:
    """How much each example counts, (b,), and which do, (b,) bool: those of which the teacher is surer and the student
    less sure than usual for the class that the teacher gives them, by confidence times relative entropy (Li et al.
    2024, LLKD, in the reading of blocks.weighting.LLKD).

    confidence (b,): the teacher's largest probability. uncertainty (b,): the student's entropy. label (b,): the
    teacher's class. sure, unsure: levels of the two, this batch included.
    """
    selected = (confidence > sure.thresholds[label]) & (uncertainty > unsure.thresholds[label])
    return selected * confidence * uncertainty / math.log(len(sure.classes)), selected


def margin_gain(logits: Tensor) -> Tensor:
    """(n,) in [0, 1]: what an example may teach, 1 minus the distance of the two largest probabilities (Baykal et al.
    2023, RAD)."""
    first, second = logits.softmax(-1).topk(2).values.unbind(-1)
    return 1 - (first - second)


def adversarial_sampling(gains: Tensor, *, wrong: int, rho: float = 1.0) -> Tensor:
    """(n,) probabilities p to draw examples with, best in the worst case that an adversary picks the `wrong` ones that
    the teacher mislabels: they maximise sum of p g over the others minus rho times that over these (Baykal et al.
    2023, RAD, in closed form).

    gains: (n,) g >= 0; an example without gain is never drawn. All that may be drawn have the same p g, so the
    adversary gains nothing by choice. Where no p has a positive value all examples are equally likely.
    """
    order = gains.argsort(descending=True)
    g = gains[order].double()
    g = g[g > 0]
    harmonic = (1 / g).cumsum(0)
    value = (torch.arange(1, len(g) + 1, device=g.device) - (1 + rho) * wrong) / harmonic
    if not len(g) or value.max() <= 0:
        return torch.full_like(gains, 1 / len(gains))
    k = int(value.argmax()) + 1
    return torch.zeros_like(gains).index_copy(0, order[:k], (1 / (g[:k] * harmonic[k - 1])).to(gains))


def draw(p: Tensor, n: int, *, spare: Tensor, generator: torch.Generator) -> Tensor:
    """n different places drawn one after the other with probabilities p (m,), on the CPU; when none with p > 0 is left,
    those with the largest `spare` (m,) follow."""
    u = torch.rand(len(p), generator=generator, dtype=torch.float64).clamp(min=1e-300)
    race = p.double().log() - (-u.log()).log()  # Gumbel: the order of arrival is that of drawing without replacement
    order = torch.where(p > 0, race, -torch.inf).argsort(descending=True)[: min(n, int((p > 0).sum()))]
    rest = spare.double().index_fill(0, order, -torch.inf).argsort(descending=True)
    return torch.cat([order, rest[: min(n, len(p)) - len(order)]])
