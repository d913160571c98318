"""Methods that learn from labels alone.

Each goes with a teacher's terms by `+`.
"""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.divergence import SmoothCE
from limbeck.blocks.label import (
    DCO,
    AnyLoss,
    CorrectnessAware,
    Dice,
    DiceSet,
    HLGauss,
    Of,
    TwoHot,
    VarianceWeighted,
)
from limbeck.blocks.logit import CE
from limbeck.losses.overlap import Metric
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="-", needs=("labels",))
def supervised() -> Objective:
    """Learn the labels alone: the baseline of every method.

    loss = CE(y, q)
    """
    return CE()


@method(paper="Szegedy et al. 2016, arXiv:1512.00567", needs=("labels",))
def label_smoothing(*, smoothing: float = 0.1) -> Objective:
    """Learn the labels mixed with the uniform distribution.

    loss = CE((1 - smoothing) y + smoothing u, q),  u: uniform

    It is what soft targets do without a teacher.
    """
    return SmoothCE(smoothing)


@method(paper="Li et al. 2020, arXiv:1911.02855", needs=("labels",))
def dice(*, alpha: float = 0.01, smooth: float = 1.0) -> Objective:
    """Maximise a soft F1 of each example.

    loss = sum_c 1 - (2 r_c y_c + smooth) / (r_c^2 + y_c^2 + smooth),  r = (1 - q)^alpha q

    For many classes; easy examples are turned down. The numbers are those of all of the authors' scripts; alpha = 1 is
    the paper's formula.
    """
    return Dice(alpha, smooth)


@method(paper="Li et al. 2020, arXiv:1911.02855", needs=("labels",))
def dice_binary(*, alpha: float = 0.01, smooth: float = 1.0, ohem: float = 0.0) -> Objective:
    """Maximise a soft F1 of the whole batch, for a rare yes.

    loss = 1 - (2 sum_i r_i y_i + smooth) / (sum_i r_i^2 + sum_i y_i^2 + smooth),  r = (1 - q)^alpha q of a yes

    ohem: 0.3 in the authors' scripts for SQuAD and NER, else 0.
    """
    return DiceSet(alpha, smooth, ohem)


@method(paper="Han et al. 2024, arXiv:2405.14745", needs=("labels",))
def anyloss(*, metric: Metric = "fbeta", beta: float = 1.0, steepness: float = 73.0) -> Objective:
    """Train for the metric itself, such as the F-score.

    loss = 1 - metric(TP, FN, FP, TN),  TP = sum_i y_i s_i,  FP = sum_i (1 - y_i) s_i, ...
    s = sigmoid(steepness (q - 1/2)),  q: of a yes

    metric: F-beta, accuracy, the geometric mean of the recalls, or the balanced accuracy. The gradient vanishes where
    all probabilities are far from 1/2: start the last layer at zero, as the authors do.
    """
    return AnyLoss(metric, beta, steepness)


@method(paper="Farebrother et al. 2024, arXiv:2403.03950", needs=("labels",), example={"low": -0.5, "high": 9.5})
def hl_gauss(*, low: float, high: float, ratio: float = 0.75, of: Of = "labels") -> Objective:
    """Learn a number as a Gaussian histogram over the classes.

    loss = CE(h, q),  h_c: the share of N(y, sigma^2) in bin c of [low, high],  sigma = ratio times a bin's width

    The labels' class numbers are the numbers, or a teacher's only logit.
    """
    return HLGauss(low, high, ratio, of)


@method(paper="Farebrother et al. 2024, arXiv:2403.03950", needs=("labels",), example={"low": 0.0, "high": 9.0})
def two_hot(*, low: float, high: float, of: Of = "labels") -> Objective:
    """Learn a number as a mixture of the two nearest classes.

    loss = CE(h, q),  h: on the centres below and above y, of those from low to high, such that their mean is y
    """
    return TwoHot(low, high, of)


@method(paper="Liu et al. 2024, arXiv:2404.13016", needs=("labels",))
def ca_calibration(*, balance: bool = True) -> Objective:
    """Be sure where right and unsure where wrong.

    loss = w (max_c q_c - [argmax q = y])^2,  w: such that right and wrong examples count equally

    It calibrates a trained classifier by its own correctness. The paper's system is this loss on
    `limbeck.models.calibrated.Calibrated(model, copies)` as the student, which keeps the model and learns a temperature
    per example (Adam 1e-4, 10 epochs on held-out data, batches of 1000).
    """
    return CorrectnessAware(balance)


@method(paper="Abrahamyan et al. 2021, arXiv:2107.11170", needs=("labels",), example={"layer": "layer3"})
def bias_loss(
    *, layer: str, alpha: float = 0.3, beta: float = 0.3, scope: Literal["batch", "run"] = "batch"
) -> Objective:
    """Cross-entropy; examples with poor features count less.

    loss = (exp(alpha u) - beta) CE(y, q),  u = (v - min v) / (max v - min v),  v: variance of the layer's features

    Poor is what varies little within an example. layer: the last before the pooling. scope: the authors' default is
    "run", whose weights have no upper bound.
    """
    return VarianceWeighted(CE(), layer, alpha, beta, scope)


@method(paper="Chen et al. 2025, arXiv:2502.07154", needs=("labels",), example={"n": 16})
def dco(*, n: float) -> Objective:
    """Train for at least one right answer among n samples.

    loss = -log(1 - (1 - q_y)^n),  q_y of the label, or of a whole answer where labels are of tokens

    n: as many as are sampled at test. A long answer's q_y is so small that this is its cross-entropy: for chains of
    thought the paper weighs CE by `losses.dco_factor` of the answers' measured share (DCO_a), proofs go step by step.
    """
    return DCO(n)
