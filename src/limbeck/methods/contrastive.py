"""Methods that tell an example's features from others'."""

from __future__ import annotations

from limbeck.blocks.contrastive import CRD
from limbeck.blocks.logit import CE
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Tian et al. 2020, arXiv:1910.10699", needs=("teacher", "labels"))
def crd(*, beta: float = 0.8, negatives: int = 16384, dim: int = 128, temperature: float = 0.07) -> Objective:
    """Tell the teacher's embedding of an example from others'.

    loss = CE(y, q) + beta (L(u, v) + L(v, u)),  u, v: embeddings of student and teacher, mapped to unit vectors
    L(u, v) = -log h(u.v) - sum_j log(1 - h(u.v_j)),  v_j: of `negatives` others out of the n examples
    h(s) = e / (e + negatives / n),  e = exp(s / temperature) / Z

    The others' are from a memory bank of past embeddings; see `CRD`.
    """
    return CE() + beta * CRD(negatives, dim, temperature)
