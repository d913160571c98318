"""Methods that tell an example's own representation from others'."""

from __future__ import annotations

from limbeck.blocks.contrastive import CRD
from limbeck.blocks.logit import CE
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Tian et al. 2020, arXiv:1910.10699", needs=("teacher", "labels"))
def crd(*, beta: float = 0.8, negatives: int = 16384, dim: int = 128, temperature: float = 0.07) -> Objective:
    """Contrast the teacher's embedding of an example with those of others, from a memory bank: CE + beta CRD."""
    return CE() + beta * CRD(negatives, dim, temperature)
