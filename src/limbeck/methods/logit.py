"""Methods that compare class distributions."""

from __future__ import annotations

from limbeck.blocks.logit import CE, KL
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="-", needs=("labels",))
def supervised() -> Objective:
    """The labels alone: what every method has to beat at the same budget."""
    return CE()


@method(paper="Hinton et al. 2015, arXiv:1503.02531", needs=("teacher",))
def kd(*, tau: float = 4.0, alpha: float = 0.9) -> Objective:
    """Match the teacher's softened class probabilities: (1 - alpha) CE + alpha tau^2 KL.

    The paper leaves both numbers open; 4 and 0.9 are those of the CIFAR-100 benchmark (Tian et al. 2020). The KL is
    over all examples, labelled or not.
    """
    return round(1 - alpha, 12) * CE() + alpha * KL(tau)
