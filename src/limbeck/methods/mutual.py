"""Methods without a teacher: students teach each other."""

from __future__ import annotations

from limbeck.blocks.divergence import BalancedPeers
from limbeck.blocks.label import TriBCE
from limbeck.blocks.mutual import Peers
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Zhang et al. 2018, arXiv:1706.00384", needs=("students", "labels"))
def dml(*, tau: float = 1.0) -> Objective:
    """Students learn from the labels and from each other.

    loss of student i = CE(y, q_i) + mean_j tau^2 KL(q_j || q_i),  q at tau, of each other student j without gradient

    Deep mutual learning. All students step at once on predictions of the same weights. The paper's algorithm 1 lets
    them step in turn, each on the others' new predictions; that order owns the optimisers, and is not this method.
    """
    return Peers(tau)


@method(paper="Amara et al. 2022, arXiv:2212.12965", needs=("students", "labels"), example={"delta": 2.0, "tau": 1.0})
def bd_kd(*, delta: float, tau: float, mirrored: bool = False) -> Objective:
    """Train a small and a large network by each other.

    loss of the small one = CE(y, q) + tau^2 (w KL(p || q) + v KL(q || p)),  p, q: of large and small, at tau
    w = delta where H(p) > H(q),  v = delta where H(q) > H(p),  else 1
    loss of the large one = CE(y, p) + tau^2 KL(q || p)

    Each example's KL is balanced by which of the two is less sure of it. The run's students are [small, large]. The
    weighting is inferred from the abstract, its numbers are not known to us (2 and 1 are the catalogue's); see
    `BalancedPeers`.
    """
    return BalancedPeers(delta, tau, mirrored)


@method(paper="Li et al. 2024, arXiv:2407.13349", needs=("students", "labels"))
def tri_bce(*, layers: tuple[str, ...] | None = None, detach: bool = False) -> Objective:
    """Branches learn together, and more where they lag behind.

    loss = CE(y, q) + sum_k max(0, L_k - L) CE(y, q_k),  q: of the branches' mean logits,  q_k: of branch k
    L, L_k: the batch's means of CE(y, q) and CE(y, q_k)

    What lags is one branch behind the average of all. The branches are the run's students, or layers of one student
    that give logits. FCN's own network is no part of this.
    """
    return TriBCE(layers, detach)
