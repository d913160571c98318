"""Methods that treat the label's class apart from the others."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.decoupled import DKD, Enhanced, EnhancedExits
from limbeck.blocks.logit import CE
from limbeck.objective import Objective
from limbeck.registry import method
from limbeck.schedules import Warmup


@method(paper="Zhao et al. 2022, arXiv:2203.08679", needs=("teacher", "labels"))
def dkd(*, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0, warmup: float = 20 / 240) -> Objective:
    """Weigh what the teacher says of the label's class apart from what it says of the others.

    beta: the authors' default; by pair it differs, 2 for resnet110 to resnet32. warmup: the share of the run in which
    the weight grows from 0, here by step, in the authors' code by epoch.
    """
    return CE() + Warmup(1.0, warmup) * DKD(alpha, beta, tau)


@method(
    paper="Hao et al. 2023, OFA-KD, NeurIPS",
    needs=("teacher", "labels"),
    example={"layers": ("layer1", "layer2", "layer3"), "eps": 1.5},
)
def ofa_kd(
    *,
    layers: tuple[str, ...],
    eps: float,
    tau: float = 1.0,
    ce: float = 1.0,
    kd: float = 1.0,
    exits: float = 1.0,
    variant: Literal["code", "paper"] = "code",
) -> Objective:
    """For a teacher of another architecture: every stage of the student learns its logits, with the label's enhanced.

    layers: the ends of all the student's stages, in order. eps: how much; the authors' configurations have 1.0 for
    CIFAR-100 and 1.5 for ImageNet. exits: weight of the stages' terms together.
    """
    final = Enhanced(eps, tau, variant)
    return ce * CE() + kd * final + exits * EnhancedExits(tuple(layers), eps, tau, variant)
