"""Objectives that compare predictions with labels, in other ways than cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck.blocks.sequence import sequences
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.inputs import wide
from limbeck.losses.label import bias_weight, correctness_aware, dco, feature_variance, tri_bce
from limbeck.losses.logit import cross_entropy
from limbeck.losses.overlap import Metric, anyloss, dice, dice_set
from limbeck.losses.value import hl_gauss, two_hot
from limbeck.objective import Composite, Objective, Reads, Term, Terms, as_terms
from limbeck.step import Merged, Step
from limbeck.targets import one_hot

if TYPE_CHECKING:
    from limbeck.run import Run


# --- overlap ------------------------------------------------------------------------------------------------------


def yes_or_no(step: Step) -> tuple[Tensor, Tensor]:
    """The student's logits of a yes, and the answers, (b, k): k = 1 for two classes, of which the second is the yes;
    else each class against the rest, its logit being that of its yes (our extension)."""
    logits = wide(step.student("x").logits)
    truth = one_hot(step.y, logits.shape[-1], logits.dtype)
    return (logits[:, 1:] - logits[:, :1], truth[:, 1:]) if logits.shape[-1] == 2 else (logits, truth)


@dataclass(frozen=True)
class Dice(Objective):
    """One minus a soft F1 of each example's probabilities, easy ones turned down (Li et al. 2020)."""

    alpha: float = 0.01
    smooth: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        value = dice(step.student("x").logits, step.y, alpha=self.alpha, smooth=self.smooth)
        return {"dice": Term(value, where="labelled")}


@dataclass(frozen=True)
class DiceSet(Objective):
    """As Dice, of a yes or no over the whole batch: the form that helps a rare yes (Li et al. 2020).

    ohem: hard negatives that count, per positive; 0: all of them.
    """

    couples: ClassVar[bool] = True

    alpha: float = 0.01
    smooth: float = 1.0
    ohem: float = 0.0

    def loss(self, step: Step, state: Any) -> Terms:
        logits, truth = yes_or_no(step)
        value = dice_set(
            logits, truth, mask=step.mask("labelled"), alpha=self.alpha, smooth=self.smooth, ohem=self.ohem
        )
        return {"dice": Term(value, where="labelled")}


@dataclass(frozen=True)
class AnyLoss(Objective):
    """One minus a metric of the batch's soft confusion matrix, after Han et al. 2024.

    metric: "fbeta", "accuracy", "gmean" or "balanced_accuracy". steepness: the paper's L.
    """

    couples: ClassVar[bool] = True

    metric: Metric = "fbeta"
    beta: float = 1.0
    steepness: float = 73.0

    def loss(self, step: Step, state: Any) -> Terms:
        logits, truth = yes_or_no(step)
        mask = step.mask("labelled")
        value = anyloss(
            logits.sigmoid(), truth, metric=self.metric, beta=self.beta, steepness=self.steepness, mask=mask
        )
        return {self.metric: Term(value, where="labelled")}


# --- numbers as classes -------------------------------------------------------------------------------------------


#: Whose numbers: the class numbers of the labels, or the only logit of a teacher that regresses.
Of = Literal["labels", "teacher"]


def binned(step: Step, of: Of, encode: Callable[[Tensor, int], Tensor]) -> Terms:
    """Cross-entropy of the student's logits, one per bin, with encoded numbers."""
    logits = wide(step.student("x").logits)
    if of == "labels":
        target = encode(step.y.to(logits.dtype), logits.shape[-1])
        return {"bins": Term(cross_entropy(logits, target), where="labelled")}
    said = step.teacher("x").logits
    if said.numel() != step.rows:
        raise ShapeError(
            f"a teacher that regresses gives one number per example; this one gives {tuple(said.shape)}: take KL(), or "
            f"read the number out of its bins with limbeck.losses.value.expected"
        )
    return {"bins": cross_entropy(logits, encode(said.flatten().to(logits.dtype), logits.shape[-1]))}


@dataclass(frozen=True)
class HLGauss(Objective):
    """A number, of the label or a teacher, as a Gaussian histogram over the student's logits (Farebrother et al. 2024).

    low, high: range of the bins, of which there are as many as logits. ratio: sigma in widths of a bin.
    """

    low: float
    high: float
    ratio: float = 0.75
    of: Of = "labels"

    def loss(self, step: Step, state: Any) -> Terms:
        def encode(y: Tensor, bins: int) -> Tensor:
            sigma = self.ratio * (self.high - self.low) / bins
            return hl_gauss(y, low=self.low, high=self.high, bins=bins, sigma=sigma)

        return binned(step, self.of, encode)


@dataclass(frozen=True)
class TwoHot(Objective):
    """As HLGauss, with the number shared between the two nearest of the centres low, ..., high."""

    low: float
    high: float
    of: Of = "labels"

    def loss(self, step: Step, state: Any) -> Terms:
        return binned(step, self.of, lambda y, bins: two_hot(y, low=self.low, high=self.high, bins=bins))


# --- confidence ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorrectnessAware(Objective):
    """The largest probability is to be 1 where it is right and 0 where it is wrong (Liu et al. 2024).

    balance: right and wrong examples count equally. That aims at an accuracy of one half: good out of distribution,
    too modest within.
    """

    balance: bool = True

    @property
    def couples_examples(self) -> bool:
        return self.balance

    def loss(self, step: Step, state: Any) -> Terms:
        value = correctness_aware(step.student("x").logits, step.y, balance=self.balance)
        return {"correctness": Term(value, where="labelled")}


@dataclass(frozen=True)
class DCO(Objective):
    """How unlikely it is that one of n samples from the student is right: it stops pushing what is covered (Chen et
    al. 2025). Where labels are of tokens, a sample is a whole answer, right in all of them.

    Unlike theirs, examples of next to no weight are not replaced by others.
    """

    n: float

    def loss(self, step: Step, state: Any) -> Terms:
        log_p = -cross_entropy(step.student("x").logits, step.y)
        if step.batch.positions is None:
            return {"dco": Term(dco(log_p, n=self.n), where="labelled")}
        return {"dco": Term(dco(sequences(step, log_p).sum(1), n=self.n), where="sequences")}


# --- weights and branches -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VarianceWeighted(Composite):
    """An objective whose examples count by the variance of their features: poor ones less (Abrahamyan et al. 2021).

    layer: path in the student. scope: the smallest variance is that of the "batch", or of the training so far ("run",
    the authors' "global", whose unit is the batch's range all the same).
    """

    couples: ClassVar[bool] = True

    objective: Objective
    layer: str
    alpha: float = 0.3
    beta: float = 0.3
    scope: Literal["batch", "run"] = "batch"

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    @property
    def reads(self) -> Reads:
        return super().reads | {("student", self.layer)}

    def init(self, run: Run) -> nn.Module:
        state = super().init(run)
        state.register_buffer("lowest", torch.tensor(torch.inf))
        return state

    def loss(self, step: Step, state: Any) -> Terms:
        variance = feature_variance(step.student("x")[self.layer])
        step.keep(variance=variance)
        lowest = torch.minimum(state.lowest, variance.min()) if self.scope == "run" else None
        weights = bias_weight(variance, alpha=self.alpha, beta=self.beta, lowest=lowest)
        terms = as_terms(self.objective.loss(step, state[0]))
        return {name: replace(term, value=weights * term.value) for name, term in terms.items()}

    def update(self, step: Merged, state: Any) -> None:
        super().update(step, state)
        state.lowest.copy_(torch.minimum(state.lowest, step.kept("variance").min()))


@dataclass(frozen=True)
class TriBCE(Objective):
    """Several branches learn together: cross-entropy of their mean logits, plus each one's own, weighted by how far it
    lags behind that mean (Li et al. 2024, FCN).

    layers: paths in the student of the branches' logits; None: the run's students are the branches. detach: the lag is
    a mere weight; the authors' code lets the gradient through.
    """

    couples: ClassVar[bool] = True

    layers: tuple[str, ...] | None = None
    detach: bool = False

    @property
    def reads(self) -> Reads:
        return frozenset(("student", layer) for layer in self.layers or ())

    def loss(self, step: Step, state: Any) -> Terms:
        if self.layers is None:
            branches = [student("x").logits for student in step.students]
        else:
            branches = [step.student("x")[layer] for layer in self.layers]
        if len(branches) < 2:
            raise SettingError(
                "there is one branch only: give Run(student=[a, b]), or the layers of a model's branches"
            )
        return {"branches": Term(tri_bce(torch.stack(branches), step.y, detach=self.detach), where="labelled")}
