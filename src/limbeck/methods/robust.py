"""Methods for wrong labels or moved inputs."""

from __future__ import annotations

from limbeck.blocks.robust import ALDR, LDR, AdvCompSum, CompSum
from limbeck.losses.robust import Scores
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Mao et al. 2023, arXiv:2304.07288", needs=("labels",), example={"tau": 1.7})
def comp_sum(*, tau: float) -> Objective:
    """One family from cross-entropy (tau = 1) to the absolute error (tau = 2), which forgives wrong labels."""
    return CompSum(tau)


@method(paper="Mao et al. 2023, arXiv:2304.07288", needs=("labels",), example={"radius": 0.1})
def comp_sum_adv(*, radius: float, tau: float = 1.0, rho: float = 1.0, nu: float = 1.0, steps: int = 10) -> Objective:
    """Comp-sum loss plus how far the worst nearby input moves the logits' differences.

    radius: largest change of an input's number (8/255 for CIFAR-10). nu is tuned in practice; the other numbers are our
    reading of settings that we could not look up.
    """
    return AdvCompSum(radius, tau, rho, nu, steps)


@method(paper="Zhu et al. 2023, ICML (LDR)", needs=("labels",))
def ldr(*, lam: float = 10.0, margin: float = 0.1) -> Objective:
    """Train for the worst distribution over the classes near the uniform one: robust to wrong labels for a large lam.

    lam: the authors search 0.1, 1 and 10; their code ships 10.
    """
    return LDR(lam, margin)


@method(paper="Zhu et al. 2023, ICML (LDR)", needs=("labels",))
def aldr(*, lam0: float = 10.0, alpha: float = 2.0, margin: float = 0.1, scores: Scores = "l1") -> Objective:
    """As ldr, where each example has its own lam, adapted to how sure the student is of it.

    scores: "l1" divides the logits by their mean size, "softplus" takes softplus first (the authors, on CIFAR-100).
    """
    return ALDR(lam0, alpha, margin, scores)
