"""Methods that compare how examples lie to each other."""

from __future__ import annotations

from limbeck.blocks.logit import CE
from limbeck.blocks.relation import RKD
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Park et al. 2019, arXiv:1904.05068", needs=("teacher", "labels"))
def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Match the teacher's relative distances and angles between the examples of a batch."""
    return CE() + RKD(distance, angle)
