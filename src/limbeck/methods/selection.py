"""Methods that choose, weigh or make the examples to learn from."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.hard import HARD
from limbeck.blocks.logit import KL
from limbeck.blocks.targets import FerKD
from limbeck.blocks.trilateral import TrilateralRatio
from limbeck.blocks.weighting import LLKD, RAD
from limbeck.methods.logit import kd
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Ben-Baruch et al. 2024, arXiv:2403.07854", needs=("teacher",), example={"alpha": 1.0})
def kd_data_pruning(*, alpha: float, tau: float = 4.0) -> Objective:
    """Distil on a selection of the examples.

    loss = (1 - alpha) CE(y, q) + alpha tau^2 KL(p_tau || q_tau)

    The teacher was trained on all of them. Select with limbeck.data.select (`prune` by `random_scores`, `el2n` or
    `forgetting`) and run on the rest with procedures.select.pruned. A good alpha rises as the selection shrinks: about
    0.5 for a large one, 1 for a tenth or for the hardest examples; the paper's tables of it are not known here, so it
    has no default. tau is that of the check in the catalogue. GraNd, memorisation and SSP, also compared in the paper,
    are not here.
    """
    return KL(tau) if alpha == 1 else kd(tau=tau, alpha=alpha)


@method(
    paper="Shen 2023, FerKD, ICCV",
    needs=("teacher", "labels"),
    example={"low": 0.15, "middle": 0.3, "high": 1.0, "eps": 0.1},
)
def ferkd(
    *,
    low: float,
    middle: float,
    high: float,
    eps: float,
    of: Literal["max", "true"] = "max",
    selfmix: float | None = None,
) -> Objective:
    """Drop or relabel crops that the teacher is unsure of.

    loss = CE(r, q) of the examples with low <= max_c p_c <= high
    r = p, but below middle 1 - eps for class y and eps / (classes - 1) for each other

    Meant for views "x" that crop at random. The paper's thresholds are not known to us; see `FerKD` for more.
    """
    return FerKD(low, middle, high, eps, of, selfmix)


@method(paper="Li et al. 2024, arXiv:2411.08028", needs=("teacher",), example={"momentum": 0.9})
def llkd(*, momentum: float) -> Objective:
    """Learn where the teacher is sure and the student is not.

    loss = p_k H(q) / log(classes) CE(k, q),  k = argmax p,  of the examples with p_k > a_k and H(q) > b_k
    a_k, b_k: moving averages of p_k and H(q), of all examples times class k's share of the largest

    momentum: unknown of the paper; 0.9 for small batches, 0.99 for long runs. See `LLKD` for what is our reading.
    """
    return LLKD(momentum)


@method(
    paper="Baykal et al. 2023, arXiv:2210.01213",
    needs=("teacher", "labels", "unlabelled"),
    example={"queries": 100, "rounds": 3, "wrong": 0.1},
)
def rad(*, queries: int, rounds: int, wrong: float, rho: float = 1.0) -> Objective:
    """Ask the teacher about few examples, wary of its errors.

    loss = CE(y, q),  of an example that was asked CE(p, q)
    asked: drawn in proportion to 1 / g among the examples of the largest g,  g = 1 - (largest q - second largest q)

    wrong: share of the pool that the teacher gets wrong; it says from how many to draw. See `RAD`.
    """
    return RAD(queries, rounds, wrong, rho)


@method(paper="Hu et al. 2024, arXiv:2312.15112", needs=("teacher", "labels"), example={"tau": 4.0})
def tgeo_kd(*, tau: float, held_out: float = 0.1, edge: Literal["square", "difference"] = "square") -> Objective:
    """Weigh teacher against label by their geometry.

    loss = a tau^2 KL(p_tau || q_tau) + (1 - a) CE(y, q),  a = f(q, p, y, m_y, (m_y - q)^2, (y - q)^2, ...)
    m_y: the mean p of class y;  f is trained for CE(y, q) on held-out examples after a step of the student

    A small network reads what student, teacher and label say and is trained on held-out examples. The paper gives no
    temperature, split, learning rates or sizes: the network's sizes are a third party's, its learning rate and the
    share of 0.1 are ours (see TrilateralRatio). Unlabelled examples have no geometry and are left out.
    """
    return TrilateralRatio(tau, held_out, edge)


@method(
    paper="Nix et al. 2023, arXiv:2305.14890",
    needs=("teacher",),
    example={"tau": 4.0, "disagree": 0.1, "steady": 0.01, "every": 4},
)
def hard(*, tau: float, disagree: float, steady: float, every: int) -> Objective:
    """Match the teacher on learnt distortions of the images.

    loss = D(p(x), q(x)) + D(p(x'), q(x')),  x': x distorted,  D(p, q) = tau^2 KL(p_tau || q_tau)
    loss of the distortion, after `every` steps = steady D(p(x), p(x')) - disagree D(p(x'), q(x'))

    The distortions learn to be what the student gets wrong and the teacher does not.
    """
    return HARD(tau, disagree, steady, every)
