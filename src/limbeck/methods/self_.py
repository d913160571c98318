"""Methods in which the student is its own teacher."""

from __future__ import annotations

from limbeck.blocks.past import PastSelf
from limbeck.objective import Objective
from limbeck.registry import method
from limbeck.schedules import Ramp


@method(paper="Kim et al. 2021, PS-KD, ICCV", needs=("labels",))
def ps_kd(*, alpha: float = 0.8) -> Objective:
    """Mix the labels with the student's own prediction of an epoch ago, more and more of it.

    alpha: share of the past in the last epoch; it grows linearly over the epochs.
    """
    return PastSelf(Ramp(0.0, alpha, by="epoch"))
