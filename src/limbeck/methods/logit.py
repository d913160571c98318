"""Methods that match what a teacher says of the classes."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.correlation import DIST
from limbeck.blocks.decoupled import DKD, Enhanced, EnhancedExits
from limbeck.blocks.divergence import JSD, ReverseKL, TopKL, TotalVariation
from limbeck.blocks.lelp import LELP
from limbeck.blocks.logit import CE, KL
from limbeck.blocks.ranking import PLD
from limbeck.blocks.standard import Standardised
from limbeck.blocks.taid import TAID
from limbeck.blocks.targets import Aspects
from limbeck.blocks.transport import Sinkhorn
from limbeck.objective import Objective
from limbeck.registry import method
from limbeck.schedules import Warmup


@method(paper="Hinton et al. 2015, arXiv:1503.02531", needs=("teacher",))
def kd(*, tau: float = 4.0, alpha: float = 0.9) -> Objective:
    """Match the teacher's softened class probabilities.

    loss = (1 - alpha) CE(y, q) + alpha tau^2 KL(p_tau || q_tau)

    The paper leaves both numbers open; 4 and 0.9 are those of the CIFAR-100 benchmark (Tian et al. 2020). The KL is
    over all examples, labelled or not.
    """
    return round(1 - alpha, 12) * CE() + alpha * KL(tau)


@method(paper="Islam et al. 2025, arXiv:2503.12622", needs=("teacher",))
def cell_sorting(*, tau: float = 1.0, alpha: float = 1.0) -> Objective:
    """Match a teacher that sees larger images.

    loss = (1 - alpha) CE(y, q) + alpha tau^2 KL(p_tau || q_tau)

    The defaults are the trainer's, the KL alone at temperature 1; alpha and tau are of the authors' library function.
    Data hold the teacher's images, and the student shrinks them: `Net(student, inputs=nn.AdaptiveAvgPool2d(48))`, so
    that both see the same cell without two loaders. Student 2 is models.cell.cell_cnn, without its final softmax. The
    shipped configs set use_mixup, whose loss has no teacher in it: not here. AdamW(0.001, weight_decay=0.0001), clip=1.
    """
    return KL(tau) if alpha == 1 else kd(tau=tau, alpha=alpha)


# --- other divergences --------------------------------------------------------------------------------------------


@method(paper="Gu et al. 2024, MiniLLM, arXiv:2306.08543", needs=("teacher",))
def reverse_kl(*, tau: float = 1.0) -> Objective:
    """Seek one of the teacher's modes: KL(student || teacher).

    loss = tau^2 KL(q_tau || p_tau)

    The paper minimises it over whole texts that the student writes; here it is the divergence of each distribution.
    """
    return ReverseKL(tau)


@method(paper="Agarwal et al. 2024, GKD, arXiv:2306.13649", needs=("teacher",), example={"beta": 0.5})
def jsd(*, beta: float, tau: float = 1.0) -> Objective:
    """Minimise the generalised Jensen-Shannon divergence.

    loss = tau^2 (beta KL(p_tau || m) + (1 - beta) KL(q_tau || m)),  m = beta p_tau + (1 - beta) q_tau

    Like KL(teacher || student) for small beta, and like KL(student || teacher) for beta near 1. The paper varies beta
    by task, and takes texts that the student writes; here it is the divergence alone.
    """
    return JSD(beta, tau)


@method(paper="Wen et al. 2023, f-distill, arXiv:2307.15190", needs=("teacher",))
def total_variation(*, tau: float = 1.0) -> Objective:
    """Minimise the absolute difference of probabilities.

    loss = 1/2 sum_c |p_tau,c - q_tau,c|

    It is bounded and symmetric. The paper sums it over the tokens of texts of both; here it is the distance of each
    distribution.
    """
    return TotalVariation(tau)


@method(paper="Sun et al. 2024, arXiv:2403.01427", needs=("teacher",))
def standardised_kd(*, tau: float = 2.0, ce: float = 0.1, kd: float = 9.0) -> Objective:
    """As kd, of logits with mean 0 and deviation 1.

    loss = ce CE(y, q) + kd tau^2 KL(softmax(n(t) / tau) || softmax(n(z) / tau)),  n(z) = (z - mean z) / deviation z

    The student need not match the scale of the teacher's logits. The numbers are those of the authors' CIFAR-100 runs;
    tau is 3 for some pairs.
    """
    return ce * CE() + kd * Standardised(KL(tau))


@method(paper="Shing et al. 2025, arXiv:2501.16937", needs=("teacher",))
def taid(*, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99) -> Objective:
    """Wander from the student's own logits to the teacher's.

    loss = CE(softmax((1 - s) z' + s t), q),  z' = z without gradient,  s rises from start to end

    start: the teacher's share at first, the authors' 0.2 to 0.4. alpha, beta: how it runs ahead where the loss falls.
    """
    return TAID(start, end, alpha, beta)


@method(paper="Shum et al. 2024, FIRST, EMNLP", needs=("teacher",), example={"tau": 0.2})
def first(
    *, tau: float, k: int = 5, normalise: Literal["softmax", "linear", "none"] = "softmax", smoothing: float = 0.0
) -> Objective:
    """Match the teacher's k most probable classes only.

    loss = KL(softmax(p_top / tau) || softmax(q_top / tau)),  p_top, q_top: p and q of the k classes with the largest p

    They are recalibrated, and all that a record of the teacher need hold. tau: of both sides' probabilities; the
    paper's is not known to us, 0.1 to 0.3 keeps their shape. smoothing: of p_top, the paper's other recalibration, at
    0.1. The authors' script takes normalise="linear", where tau counts nothing. Meant for a student that is good
    already: nothing keeps its mass within the k classes, unless by "none" or by + CE(). The authors sum over a text's
    tokens and divide by the number of texts; here the mean is over all rows.
    """
    return TopKL(k, normalise, tau, tau, smoothing)


# --- more than the probabilities ----------------------------------------------------------------------------------


@method(paper="Zhao et al. 2022, arXiv:2203.08679", needs=("teacher", "labels"))
def dkd(*, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0, warmup: float = 20 / 240) -> Objective:
    """Weigh the label's class apart from the other classes.

    loss = CE(y, q) + w tau^2 (alpha KL(b(p) || b(q)) + beta KL(o(p) || o(q))),  w rises from 0 to 1
    b(p) = (p_y, 1 - p_y),  o(p) = p of the other classes / (1 - p_y),  p and q at tau

    beta: the authors' default; by pair it differs, 2 for resnet110 to resnet32. warmup: the share of the run in which
    the weight grows from 0, here by step, in the authors' code by epoch.
    """
    return CE() + Warmup(1.0, warmup) * DKD(alpha, beta, tau)


@method(
    paper="Hao et al. 2023, OFA-KD, NeurIPS",
    needs=("teacher", "labels"),
    example={"layers": ("layer1", "layer2", "layer3"), "eps": 1.5},
)
def ofa_kd(
    *,
    layers: tuple[str, ...],
    eps: float,
    tau: float = 1.0,
    ce: float = 1.0,
    kd: float = 1.0,
    exits: float = 1.0,
    variant: Literal["code", "paper"] = "code",
) -> Objective:
    """Match a teacher of another architecture at every stage.

    loss = ce CE(y, q) + kd CE(w, q_tau) + exits sum_l CE(w, q_tau of the exit after stage l)
    w_c = p_tau,c^eps,  w_y = (1 + p_tau,y)^eps - 1

    Only logits are compared, in which the label's class is enhanced. layers: the ends of all the student's stages, in
    order. eps: how much; the authors' configurations have 1.0 for CIFAR-100 and 1.5 for ImageNet. exits: weight of the
    stages' terms together.
    """
    final = Enhanced(eps, tau, variant)
    return ce * CE() + kd * final + exits * EnhancedExits(tuple(layers), eps, tau, variant)


@method(paper="Huang et al. 2022, arXiv:2205.10536", needs=("teacher",))
def dist(*, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Objective:
    """Correlate with the teacher over classes and examples.

    loss = CE(y, q) + tau^2 (beta (1 - r(q, p)) + gamma mean_c (1 - r(q_c, p_c))),  q and p at tau
    r: Pearson's correlation, first over an example's classes, then over the batch's examples

    For a teacher so much stronger that its numbers cannot be matched. The defaults are those of the authors' code.
    """
    return CE() + DIST(beta, gamma, tau)


@method(paper="Bassam et al. 2025, arXiv:2506.12542", needs=("teacher", "labels"))
def pld(*, tau: float = 1.0) -> Objective:
    """Learn a ranking: the label, then the teacher's order.

    loss = -sum_k p_tau,o(k) log(exp z_o(k) / sum_{l >= k} exp z_o(l)),  o: y, then the other classes by falling t

    It takes the place of both CE and KD. tau: of the teacher's weights; 1 is the paper's for ImageNet, 4 that for
    CIFAR-100.
    """
    return PLD(tau)


@method(paper="Cui et al. 2024, arXiv:2402.17110", needs=("teacher",), example={"kd": 0.9, "ot": 0.8})
def sinkd(*, kd: float, ot: float, tau: float = 2.0, eps: float = 0.1, iters: int = 20) -> Objective:
    """Match the batch's distributions by optimal transport.

    loss = CE(y, q) + kd tau^2 KL(p || q) + ot sum_j P_ij C_ij,  C_ij = sum_c |q_i,c - p_j,c|,  p and q at tau
    P = exp(-C / eps), rows and columns scaled in turn to sums of 1, iters times

    The authors' weights differ by task, as do their temperatures of the KD term, which has no tau**2: on GLUE it is
    (1 - a) CE + a / tau**2 KL(tau) + 0.8 * 0.001 * b * Sinkhorn() with a in 0.8-1, tau in 2-4 and b the batch size,
    since theirs is a sum over the batch. tau here is that of both terms.
    """
    return CE() + kd * KL(tau) + ot * Sinkhorn(tau, eps, iters)


# --- more to say than the classes ---------------------------------------------------------------------------------


@method(
    paper="Loo et al. 2024, arXiv:2409.20449",
    needs=("teacher",),
    example={"subclasses": 5, "beta": 1.0, "tau": 1.0},
)
def lelp(*, subclasses: int, beta: float, tau: float) -> Objective:
    """Learn pseudo-subclasses of the teacher's embedding.

    loss = CE(r, q) over all subclasses,  r_c,s = p_tau,c softmax_s(beta h_c,s)
    h_c,s: the teacher's embedding along direction s of class c

    For two to five classes, of whose probabilities there is little to learn. No loss of labels, as in the paper; where
    there are any, they tell from which examples a class's directions are found.
    """
    return LELP(subclasses, beta, tau)


@method(paper="Lee et al. 2025, MaKD (multi-aspect knowledge distillation)", needs=("teacher", "labels"))
def makd(*, alpha: float = 4.0) -> Objective:
    """Learn answers to yes-or-no questions about each image.

    loss = CE(y, q) + alpha mean_k BCE(r_k, g_k),  r_k: the teacher's probability of a yes,  g: a second head's

    The answers are a language model's; a head of its own learns them, beside the labels. alpha: the authors'
    configuration; they choose it for each data set. The teacher: `answers.Answers(probabilities)`.
    """
    return CE() + alpha * Aspects()
