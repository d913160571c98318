"""Methods that teach an order."""

from __future__ import annotations

from limbeck.blocks.ranking import PLD
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Bassam et al. 2025, arXiv:2506.12542", needs=("teacher", "labels"))
def pld(*, tau: float = 1.0) -> Objective:
    """Learn one ranking of the classes, the label first and then the teacher's order, in place of CE and KD.

    tau: of the teacher's weights; 1 is the paper's for ImageNet, 4 that for CIFAR-100.
    """
    return PLD(tau)
