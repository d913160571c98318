"""Methods that tell transformations of the input apart too."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.joint import JointLabels
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Lee et al. 2020, SLA, ICML", needs=("labels",))
def sla(
    *, rotations: Literal[1, 2, 4] = 4, colours: Literal[1, 3, 6] = 1, tau: float = 1.0, joint: float = 1.0
) -> Objective:
    """Tell class and rotation of each image at once in a second head, and teach its aggregate to the student's own.

    This is SLA+SD: one forward at test time. Each step sees every image under all transformations.
    """
    return JointLabels(rotations, colours, tau, joint)
