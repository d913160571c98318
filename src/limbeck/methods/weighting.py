"""Methods that choose which examples, or which teachers, to learn from."""

from __future__ import annotations

from limbeck.blocks.logit import CE
from limbeck.blocks.weighting import LLKD, RAD, SimilarTasks
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Li et al. 2024, arXiv:2411.08028", needs=("teacher",), example={"momentum": 0.9})
def llkd(*, momentum: float) -> Objective:
    """Learn the teacher's classes of those examples only of which it is sure and the student is not.

    momentum: unknown of the paper; 0.9 for small batches, 0.99 for long runs. See `LLKD` for what is our reading.
    """
    return LLKD(momentum)


@method(
    paper="Baykal et al. 2023, arXiv:2210.01213",
    needs=("teacher", "labels", "unlabelled"),
    example={"queries": 100, "rounds": 3, "wrong": 0.1},
)
def rad(*, queries: int, rounds: int, wrong: float, rho: float = 1.0) -> Objective:
    """Ask the teacher about few unlabelled examples, drawn so that its errors can do little harm."""
    return RAD(queries, rounds, wrong, rho)


@method(paper="Borup et al. 2023, arXiv:2304.12314", needs=("teachers", "labels"), example={"weight": 0.8})
def distill_nearest(*, weight: float) -> Objective:
    """Learn the labels and, in a head of its own, what the model of the most similar other task says.

    weight: of the labels; the teacher's is 1 - weight. We know of no certain value.
    """
    return weight * CE() + round(1 - weight, 12) * SimilarTasks(None)


@method(
    paper="Borup et al. 2023, arXiv:2304.12314",
    needs=("teachers", "labels"),
    example={"weight": 0.8, "power": 12.0},
)
def distill_weighted(*, weight: float, power: float) -> Objective:
    """Learn the labels and, each in a head of its own, what models of other tasks say, the more similar the more.

    weight: of the labels; the teachers' is 1 - weight. power: of the similarity. We know of no certain values.
    """
    return weight * CE() + round(1 - weight, 12) * SimilarTasks(power)
