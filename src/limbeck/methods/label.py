"""Methods that compare predictions with labels, in other ways than cross-entropy; each goes with a teacher's terms by
`+`."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.label import (
    DCO,
    AnyLoss,
    CorrectnessAware,
    Dice,
    DiceSet,
    HLGauss,
    Of,
    TriBCE,
    TwoHot,
    VarianceWeighted,
)
from limbeck.blocks.logit import CE
from limbeck.losses.overlap import Metric
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Li et al. 2020, arXiv:1911.02855", needs=("labels",))
def dice(*, alpha: float = 0.01, smooth: float = 1.0) -> Objective:
    """Maximise a soft F1 of each example, easy ones turned down, for many classes.

    The numbers are those of all of the authors' scripts; alpha = 1 is the paper's formula.
    """
    return Dice(alpha, smooth)


@method(paper="Li et al. 2020, arXiv:1911.02855", needs=("labels",))
def dice_binary(*, alpha: float = 0.01, smooth: float = 1.0, ohem: float = 0.0) -> Objective:
    """Maximise a soft F1 of the whole batch, for a rare yes among many no.

    ohem: 0.3 in the authors' scripts for SQuAD and NER, else 0.
    """
    return DiceSet(alpha, smooth, ohem)


@method(paper="Han et al. 2024, arXiv:2405.14745", needs=("labels",))
def anyloss(*, metric: Metric = "fbeta", beta: float = 1.0, steepness: float = 73.0) -> Objective:
    """Train for the metric itself: F-beta, accuracy, the geometric mean of the recalls, or the balanced accuracy.

    The gradient vanishes where all probabilities are far from 1/2: start the last layer at zero, as the authors do.
    """
    return AnyLoss(metric, beta, steepness)


@method(paper="Farebrother et al. 2024, arXiv:2403.03950", needs=("labels",), example={"low": -0.5, "high": 9.5})
def hl_gauss(*, low: float, high: float, ratio: float = 0.75, of: Of = "labels") -> Objective:
    """Learn a number by classification: its target is a Gaussian histogram over the student's logits.

    The labels' class numbers are the numbers, or a teacher's only logit.
    """
    return HLGauss(low, high, ratio, of)


@method(paper="Farebrother et al. 2024, arXiv:2403.03950", needs=("labels",), example={"low": 0.0, "high": 9.0})
def two_hot(*, low: float, high: float, of: Of = "labels") -> Objective:
    """Learn a number by classification: its target is shared between the two nearest of the student's logits."""
    return TwoHot(low, high, of)


@method(paper="Liu et al. 2024, arXiv:2404.13016", needs=("labels",))
def ca_calibration(*, balance: bool = True) -> Objective:
    """Be sure where right and unsure where wrong: calibrate a trained classifier by its own correctness.

    The paper's system is this loss on `limbeck.models.calibrated.Calibrated(model, copies)` as the student, which
    keeps the model and learns a temperature per example (Adam 1e-4, 10 epochs on held-out data, batches of 1000).
    """
    return CorrectnessAware(balance)


@method(paper="Abrahamyan et al. 2021, arXiv:2107.11170", needs=("labels",), example={"layer": "layer3"})
def bias_loss(
    *, layer: str, alpha: float = 0.3, beta: float = 0.3, scope: Literal["batch", "run"] = "batch"
) -> Objective:
    """Cross-entropy in which examples with poor (low-variance) features count less.

    layer: the last before the pooling. scope: the authors' default is "run", whose weights have no upper bound.
    """
    return VarianceWeighted(CE(), layer, alpha, beta, scope)


@method(paper="Chen et al. 2025, arXiv:2502.07154", needs=("labels",), example={"n": 16})
def dco(*, n: float) -> Objective:
    """Train for at least one right answer among n samples, instead of for one sure answer.

    n: as many as are sampled at test. Only for answers of one token, i.e. class logits; `losses.label.dco` takes log
    probabilities of whole sequences.
    """
    return DCO(n)


@method(paper="Li et al. 2024, arXiv:2407.13349", needs=("students", "labels"))
def tri_bce(*, layers: tuple[str, ...] | None = None, detach: bool = False) -> Objective:
    """Branches that are averaged learn together, and more on their own where they lag behind the average.

    The branches are the run's students, or layers of one student that give logits. FCN's own network is no part of
    this.
    """
    return TriBCE(layers, detach)
