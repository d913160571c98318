"""Methods whose point lies outside of the loss: which examples, which teacher, which start, which order of runs.

The pipelines themselves are in limbeck.procedures, the selections of examples in limbeck.data.select.
"""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.discriminator import Discriminator
from limbeck.blocks.logit import KL
from limbeck.blocks.soft import Brier, BrierKD, SoftCE, SymmetricKL, WeightNorms
from limbeck.blocks.trilateral import TrilateralRatio
from limbeck.methods.logit import kd
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Ben-Baruch et al. 2024, arXiv:2403.07854", needs=("teacher",), example={"alpha": 1.0})
def kd_data_pruning(*, alpha: float, tau: float = 4.0) -> Objective:
    """Train on a selection of the examples with the soft labels of a teacher of all of them: (1 - alpha) CE + alpha
    tau^2 KL.

    Select with limbeck.data.select (`prune` by `random_scores`, `el2n` or `forgetting`) and run on the rest with
    procedures.select.pruned. A good alpha rises as the selection shrinks: about 0.5 for a large one, 1 for a tenth or
    for the hardest examples; the paper's tables of it are not known here, so it has no default. tau is that of the
    check in the catalogue. GraNd, memorisation and SSP, also compared in the paper, are not here.
    """
    return KL(tau) if alpha == 1 else kd(tau=tau, alpha=alpha)


@method(paper="Mirzadeh et al. 2020, arXiv:1902.03393", needs=("teacher", "labels"), example={"tau": 5.0, "alpha": 0.5})
def takd(*, tau: float, alpha: float) -> Objective:
    """Distil by way of assistants between a large teacher and a small student: in each link (1 - alpha) CE + alpha
    tau^2 KL (equations 1-3).

    This is one link; procedures.chain.takd makes the chain. The authors search both numbers anew for every link, tau
    in 1, 2, 5, 10, 15, 20 and alpha in 0.05, 0.1, ..., 1. Their code divides the KL by the number of classes too
    (KLDivLoss with its default mean), which the equations do not; so alpha there is another number for the same loss,
    up to its size.
    """
    return kd(tau=tau, alpha=alpha)


@method(paper="Borup & Andersen 2021, NeurIPS", needs=("teacher", "labels"), example={"alpha": 0.4})
def even_your_teacher(*, alpha: float, penalty: float = 1e-4) -> Objective:
    """Fit the labels and the previous generation's probabilities by squared distance, with the labels as a guide
    against shrinking: alpha of the labels, 1 - alpha of the past, and the norms of the weights.

    alpha weights the truth. The first generation has no teacher: `Brier() + 0.0001 * WeightNorms()`.
    procedures.chain.generations makes them all, procedures.guided finds alpha. The authors take Adam with 0.001, which
    is AdamW(0.001, weight_decay=0.0), for 75 epochs of each of 5 generations.
    """
    return alpha * Brier() + round(1 - alpha, 12) * BrierKD() + penalty * WeightNorms()


@method(paper="Sarnthein et al. 2023, Random Teachers are Good Teachers, ICML", needs=("teacher",))
def random_teachers(*, tau: float = 1.0, teacher_tau: float = 1.0) -> Objective:
    """Match the outputs of a random network, from a start at or near it, without labels: the features get better.

    The teacher is any untrained model, procedures.start.blend makes the student and models.projection the head that
    the effect needs, many outputs behind a narrow bottleneck; probe the encoder. AdamW(0.001, weight_decay=0.0). The
    variant whose teacher has the student's batch statistics is not here.
    """
    return SoftCE(tau, teacher_tau)


@method(paper="Cui et al. 2021, SSLD, arXiv:2103.05959", needs=("teacher",))
def ssld() -> Objective:
    """Match the teacher in both directions of the KL divergence, without labels, on many and then on few examples.

    procedures.select.ssld chooses the examples and makes both stages. What the authors call a Jensen-Shannon
    divergence is half of Jeffreys'. Near-duplicates of the test set are found by SIFT there, by the cosine of features
    here (`data.select.near`).
    """
    return SymmetricKL()


@method(paper="Shen & Savvides 2020, arXiv:2009.08453", needs=("teacher",))
def meal_v2(*, judge: Literal["released", "reversed", "none"] = "released") -> Objective:
    """Match the mean of strong teachers' probabilities, with no label, and a judge that tells student from teachers.

    One teacher or several. The student starts from trained weights and has no weight decay: SGD(0.01,
    weight_decay=0.0). judge: "released", as in the authors' code, where the student helps the judge; "reversed", the
    game of the paper, where it fools it; "none". Either way little changes. The judge learns at the student's rate, as
    it does in their code. CutMix and one random teacher per batch, both optional there, are not here.
    """
    return SoftCE() if judge == "none" else SoftCE() + Discriminator(reverse=judge == "reversed")


@method(paper="Hu et al. 2024, arXiv:2312.15112", needs=("teacher", "labels"), example={"tau": 4.0})
def tgeo_kd(*, tau: float, held_out: float = 0.1, edge: Literal["square", "difference"] = "square") -> Objective:
    """Weight teacher against label by a small network that reads the geometry of both and the student, and is trained
    on held-out examples.

    The paper gives no temperature, split, learning rates or sizes: the network's sizes are a third party's, its
    learning rate and the share of 0.1 are ours (see TrilateralRatio). Unlabelled examples have no geometry and are left
    out.
    """
    return TrilateralRatio(tau, held_out, edge)


@method(paper="Islam et al. 2025, arXiv:2503.12622", needs=("teacher",))
def cell_sorting(*, tau: float = 1.0, alpha: float = 1.0) -> Objective:
    """Match the teacher's probabilities with a student on smaller images: (1 - alpha) CE + alpha tau^2 KL.

    The defaults are the trainer's, the KL alone at temperature 1; alpha and tau are of the authors' library function.
    Data hold the teacher's images, and the student shrinks them: `Net(student, inputs=nn.AdaptiveAvgPool2d(48))`, so
    that both see the same cell without two loaders. Student 2 is models.cell.cell_cnn, without its final softmax. The
    shipped configs set use_mixup, whose loss has no teacher in it: not here. AdamW(0.001, weight_decay=0.0001), clip=1.
    """
    return KL(tau) if alpha == 1 else kd(tau=tau, alpha=alpha)
