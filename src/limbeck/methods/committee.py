"""Methods with several teachers."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.logit import CE, CommitteeKL
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Hinton et al. 2015, arXiv:1503.02531; You et al. 2017, KDD", needs=("teachers",))
def committee(
    *, tau: float = 4.0, alpha: float = 0.9, mean: Literal["arithmetic", "geometric"] = "arithmetic"
) -> Objective:
    """Match the mean of several teachers' softened class probabilities.

    mean: of the probabilities, or "geometric", of their logarithms; Hinton et al. name both.
    """
    return round(1 - alpha, 12) * CE() + alpha * CommitteeKL(tau, mean)
