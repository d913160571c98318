"""Methods that ask for equal order and proportion."""

from __future__ import annotations

from limbeck.blocks.correlation import DIST
from limbeck.blocks.logit import CE
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Huang et al. 2022, arXiv:2205.10536", needs=("teacher",))
def dist(*, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Objective:
    """Correlate with a much stronger teacher, between classes and between examples, rather than match its numbers.

    The defaults are those of the authors' code.
    """
    return CE() + DIST(beta, gamma, tau)
