"""Methods in which the student is its own teacher."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.joint import JointLabels
from limbeck.blocks.past import PastSelf
from limbeck.blocks.soft import Brier, BrierKD, WeightNorms
from limbeck.objective import Objective
from limbeck.registry import method
from limbeck.schedules import Ramp


@method(paper="Kim et al. 2021, PS-KD, ICCV", needs=("labels",))
def ps_kd(*, alpha: float = 0.8) -> Objective:
    """Mix the labels with what the student said an epoch ago.

    loss = CE((1 - a) y + a q', q),  q': what the student said an epoch ago,  a = alpha epoch / epochs

    alpha: share of the past in the last epoch; it grows linearly over the epochs.
    """
    return PastSelf(Ramp(0.0, alpha, by="epoch"))


@method(paper="Lee et al. 2020, SLA, ICML", needs=("labels",))
def sla(
    *, rotations: Literal[1, 2, 4] = 4, colours: Literal[1, 3, 6] = 1, tau: float = 1.0, joint: float = 1.0
) -> Objective:
    """Tell class and rotation at once, and teach oneself.

    loss = joint mean_m CE((y, m), second head's q of transform m) + CE(y, q) + tau^2 KL(a_tau || q_tau)
    a: of the mean over m of the second head's logits of (class, m), without gradient

    A second head tells both; its aggregate over the rotations is what the first one learns. This is SLA+SD: one forward
    at test time. Each step sees every image under all transformations.
    """
    return JointLabels(rotations, colours, tau, joint)


@method(paper="Borup & Andersen 2021, NeurIPS", needs=("teacher", "labels"), example={"alpha": 0.4})
def even_your_teacher(*, alpha: float, penalty: float = 1e-4) -> Objective:
    """Fit the labels and the previous generation.

    loss = alpha mean_c (y_c - q_c)^2 + (1 - alpha) mean_c (p_c - q_c)^2 + penalty sum of the norms of all weights

    The labels are a guide against shrinking, generation by generation. alpha weights the truth. The first generation
    has no teacher: `Brier() + 0.0001 * WeightNorms()`. procedures.chain.generations makes them all, procedures.guided
    finds alpha. The authors take Adam with 0.001, which is AdamW(0.001, weight_decay=0.0), for 75 epochs of each of 5
    generations.
    """
    return alpha * Brier() + round(1 - alpha, 12) * BrierKD() + penalty * WeightNorms()
