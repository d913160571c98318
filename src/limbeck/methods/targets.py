"""Methods that change what the teacher says, or which part of the student hears it."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.hard import HARD
from limbeck.blocks.lelp import LELP
from limbeck.blocks.logit import CE, KL
from limbeck.blocks.targets import DHO, Aspects, FerKD, HotCE
from limbeck.objective import Objective
from limbeck.registry import method


@method(
    paper="Shen 2023, FerKD, ICCV",
    needs=("teacher", "labels"),
    example={"low": 0.15, "middle": 0.3, "high": 1.0, "eps": 0.1},
)
def ferkd(
    *,
    low: float,
    middle: float,
    high: float,
    eps: float,
    of: Literal["max", "true"] = "max",
    selfmix: float | None = None,
) -> Objective:
    """Learn the teacher's probabilities of each crop, but drop the crops that tell it nothing, and take the smoothed
    label of those that it is unsure of.

    Meant for views "x" that crop at random. The paper's thresholds are not known to us; see `FerKD` for more.
    """
    return FerKD(low, middle, high, eps, of, selfmix)


@method(paper="Kang et al. 2025, arXiv:2505.07675", needs=("teacher", "labels"))
def dho(*, tau: float = 2.0, weight: float = 0.5, alpha: float = 0.5, beta: float = 0.5) -> Objective:
    """Give the student one head for the labels and one for the teacher, and mix their probabilities.

    alpha, beta: the authors' for ImageNet; elsewhere they are chosen on validation data, `heads.DualHead.choose`.
    """
    return DHO(tau, weight, alpha, beta)


@method(
    paper="Loo et al. 2024, arXiv:2409.20449",
    needs=("teacher",),
    example={"subclasses": 5, "beta": 1.0, "tau": 1.0},
)
def lelp(*, subclasses: int, beta: float, tau: float) -> Objective:
    """Split each class into pseudo-subclasses by directions of the teacher's embedding, and learn those.

    For two to five classes, of whose probabilities there is little to learn. Without labels, as in the paper.
    """
    return LELP(subclasses, beta, tau)


@method(paper="Lee et al. 2025, MaKD (multi-aspect knowledge distillation)", needs=("teacher", "labels"))
def makd(*, alpha: float = 4.0) -> Objective:
    """Learn, beside the labels, a language model's answers to yes-or-no questions about each image.

    alpha: the authors' configuration; they choose it for each data set. The teacher: `answers.Answers(probabilities)`.
    """
    return CE() + alpha * Aspects()


@method(
    paper="Nix et al. 2023, arXiv:2305.14890",
    needs=("teacher",),
    example={"tau": 4.0, "disagree": 0.1, "steady": 0.01, "every": 4},
)
def hard(*, tau: float, disagree: float, steady: float, every: int) -> Objective:
    """Match the teacher on images and on learnt distortions of them that the student gets wrong."""
    return HARD(tau, disagree, steady, every)


@method(paper="Papernot et al. 2016, arXiv:1511.04508", needs=("labels",), example={"tau": 20.0})
def hot_labels(*, tau: float) -> Objective:
    """Train on the labels at a high temperature: the teacher of defensive_distillation."""
    return HotCE(tau)


@method(paper="Papernot et al. 2016, arXiv:1511.04508", needs=("teacher",), example={"tau": 20.0})
def defensive_distillation(*, tau: float) -> Objective:
    """Match at a high temperature a teacher that was trained at it too; used without it, input gradients vanish.

    Judge it by `attacks`: this stops gradient-sign attacks on the cross-entropy, not those on logits. The objective is
    cross-entropy at tau, here less the teacher's entropy, without the factor tau**2: it wants a larger learning rate.
    """
    return tau**-2 * KL(tau)
