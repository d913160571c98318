"""Methods without a teacher: students teach each other."""

from __future__ import annotations

from limbeck.blocks.mutual import Peers
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Zhang et al. 2018, arXiv:1706.00384", needs=("students", "labels"))
def dml(*, tau: float = 1.0) -> Objective:
    """Deep mutual learning: each student learns from the labels and from its peers' predictions.

    All students step at once on predictions of the same weights. The paper's algorithm 1 lets them step in turn, each
    on the others' new predictions; that order owns the optimisers, and is not this method.
    """
    return Peers(tau)
