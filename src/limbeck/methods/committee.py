"""Methods with several teachers."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.discriminator import Discriminator
from limbeck.blocks.logit import CE, CommitteeKL
from limbeck.blocks.soft import SoftCE
from limbeck.blocks.weighting import SimilarTasks
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Hinton et al. 2015, arXiv:1503.02531; You et al. 2017, KDD", needs=("teachers",))
def committee(
    *, tau: float = 4.0, alpha: float = 0.9, mean: Literal["arithmetic", "geometric"] = "arithmetic"
) -> Objective:
    """Match the mean of several teachers' probabilities.

    loss = (1 - alpha) CE(y, q) + alpha tau^2 KL(mean_k p_tau of teacher k || q_tau)

    mean: of the probabilities, or "geometric", of their logarithms; Hinton et al. name both.
    """
    return round(1 - alpha, 12) * CE() + alpha * CommitteeKL(tau, mean)


@method(paper="Shen & Savvides 2020, arXiv:2009.08453", needs=("teacher",))
def meal_v2(*, judge: Literal["released", "reversed", "none"] = "released") -> Objective:
    """Match the mean of strong teachers, watched by a judge.

    loss = CE(mean_k p of teacher k, q) + 1/2 (BCE((1, 0), d(z)) + BCE((0, 1), d(mean_k t of teacher k))),  d: the judge

    No labels; the judge tells student from teachers. One teacher or several. The student starts from trained weights
    and has no weight decay: SGD(0.01, weight_decay=0.0). judge: "released", as in the authors' code, where the student
    helps the judge; "reversed", the game of the paper, where it fools it; "none". Either way little changes. The judge
    learns at the student's rate, as it does in their code. CutMix and one random teacher per batch, both optional
    there, are not here.
    """
    return SoftCE() if judge == "none" else SoftCE() + Discriminator(reverse=judge == "reversed")


@method(paper="Borup et al. 2023, arXiv:2304.12314", needs=("teachers", "labels"), example={"weight": 0.8})
def distill_nearest(*, weight: float) -> Objective:
    """Learn also what the model of the most similar task says.

    loss = weight CE(y, q) + (1 - weight) CE(p of teacher k, q of head k),  k: the one with the largest similarity s_k
    s_k: PARC, the rank correlation of the examples' distances by teacher k's embedding and by label

    What the other task's model says, in its own classes, is learnt in a head of its own. weight: of the labels; the
    teacher's is 1 - weight. We know of no certain value.
    """
    return weight * CE() + round(1 - weight, 12) * SimilarTasks(None)


@method(
    paper="Borup et al. 2023, arXiv:2304.12314",
    needs=("teachers", "labels"),
    example={"weight": 0.8, "power": 12.0},
)
def distill_weighted(*, weight: float, power: float) -> Objective:
    """Learn also what models of similar other tasks say.

    loss = weight CE(y, q) + (1 - weight) sum_k w_k CE(p of teacher k, q of head k),  w_k = s_k^power / sum_j s_j^power
    s_k: PARC, the rank correlation of the examples' distances by teacher k's embedding and by label, at least 0

    What each model says, in its own classes, is learnt in a head of its own. weight: of the labels, the rest is the
    teachers'. power: of the similarity. We know of no certain values.
    """
    return weight * CE() + round(1 - weight, 12) * SimilarTasks(power)
