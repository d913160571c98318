"""Methods that match how examples lie to each other."""

from __future__ import annotations

from limbeck.blocks.logit import CE
from limbeck.blocks.relation import RKD
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Park et al. 2019, arXiv:1904.05068", needs=("teacher", "labels"))
def rkd(*, distance: float = 25.0, angle: float = 50.0) -> Objective:
    """Match distances and angles between a batch's examples.

    loss = CE(y, q) + distance mean_j h(d_ij - d_ij of the teacher) + angle mean_jk h(a_ijk - a_ijk of the teacher)
    d_ij: distance of embeddings / mean distance,  a_ijk: cosine of the angle at i towards j and k,  h: Huber loss
    """
    return CE() + RKD(distance, angle)
