"""Methods that take more than one run.

Here are their objectives; the pipelines themselves are in limbeck.procedures.
"""

from __future__ import annotations

from limbeck.blocks.logit import CE
from limbeck.blocks.preparation import CMI
from limbeck.blocks.soft import SoftCE
from limbeck.methods.logit import kd
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Ye et al. 2024, MCMI, ICLR", needs=("labels",), example={"weight": 0.15})
def mcmi(*, weight: float, momentum: float = 1.0) -> Objective:
    """Fine-tune a trained teacher so that it teaches more.

    loss = CE(y, q) - weight KL(q || m_y),  m_y: the mean q of class y before training

    It then tells more of the examples within a class. Give it as the run's student, with its trained weights. weight:
    lambda, by teacher and not known to us; 0.05 to 0.25 keeps its accuracy within about a point. The authors: 20
    epochs, SGD(0.05, cosine), batches of 64.
    """
    return CE() + -weight * CMI(momentum)


@method(paper="Sarnthein et al. 2023, Random Teachers are Good Teachers, ICML", needs=("teacher",))
def random_teachers(*, tau: float = 1.0, teacher_tau: float = 1.0) -> Objective:
    """Match a random network, from a start near it.

    loss = CE(p at teacher_tau, q at tau)

    Without labels; what gets better are the features. The teacher is any untrained model, procedures.start.blend makes
    the student and models.projection the head that the effect needs, many outputs behind a narrow bottleneck; probe the
    encoder. AdamW(0.001, weight_decay=0.0). The variant whose teacher has the student's batch statistics is not here.
    """
    return SoftCE(tau, teacher_tau)


@method(paper="Mirzadeh et al. 2020, arXiv:1902.03393", needs=("teacher", "labels"), example={"tau": 5.0, "alpha": 0.5})
def takd(*, tau: float, alpha: float) -> Objective:
    """Distil by way of assistants of sizes in between.

    loss = (1 - alpha) CE(y, q) + alpha tau^2 KL(p_tau || q_tau) in each link (equations 1-3)

    This is one link; procedures.chain.takd makes the chain. The authors search both numbers anew for every link, tau
    in 1, 2, 5, 10, 15, 20 and alpha in 0.05, 0.1, ..., 1. Their code divides the KL by the number of classes too
    (KLDivLoss with its default mean), which the equations do not; so alpha there is another number for the same loss,
    up to its size.
    """
    return kd(tau=tau, alpha=alpha)
