"""Methods that compare class distributions otherwise than by KL(teacher || student) with the teacher as it is."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.divergence import JSD, BalancedPeers, ReverseKL, SmoothCE, TopKL, TotalVariation
from limbeck.blocks.logit import CE, KL
from limbeck.blocks.standard import Standardised
from limbeck.blocks.taid import TAID
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Szegedy et al. 2016, arXiv:1512.00567", needs=("labels",))
def label_smoothing(*, smoothing: float = 0.1) -> Objective:
    """Learn the labels mixed with the uniform distribution: what soft targets do without a teacher."""
    return SmoothCE(smoothing)


@method(paper="Gu et al. 2024, MiniLLM, arXiv:2306.08543", needs=("teacher",))
def reverse_kl(*, tau: float = 1.0) -> Objective:
    """Minimise KL(student || teacher), which seeks one of the teacher's modes, in place of KL(teacher || student).

    The paper minimises it over whole texts that the student writes; here it is the divergence of each distribution.
    """
    return ReverseKL(tau)


@method(paper="Agarwal et al. 2024, GKD, arXiv:2306.13649", needs=("teacher",), example={"beta": 0.5})
def jsd(*, beta: float, tau: float = 1.0) -> Objective:
    """Minimise the generalised Jensen-Shannon divergence: like KL(teacher || student) for small beta, and like
    KL(student || teacher) for beta near 1.

    The paper varies beta by task, and takes texts that the student writes; here it is the divergence alone.
    """
    return JSD(beta, tau)


@method(paper="Wen et al. 2023, f-distill, arXiv:2307.15190", needs=("teacher",))
def total_variation(*, tau: float = 1.0) -> Objective:
    """Minimise the absolute difference of student's and teacher's probabilities: bounded and symmetric.

    The paper sums it over the tokens of texts of both; here it is the distance of each distribution.
    """
    return TotalVariation(tau)


@method(paper="Sun et al. 2024, arXiv:2403.01427", needs=("teacher",))
def standardised_kd(*, tau: float = 2.0, ce: float = 0.1, kd: float = 9.0) -> Objective:
    """As kd, of logits with mean 0 and deviation 1 in each example, so that the student need not match their scale.

    The numbers are those of the authors' CIFAR-100 runs; tau is 3 for some pairs.
    """
    return ce * CE() + kd * Standardised(KL(tau))


@method(paper="Shing et al. 2025, arXiv:2501.16937", needs=("teacher",))
def taid(*, start: float = 0.4, end: float = 1.0, alpha: float = 5e-4, beta: float = 0.99) -> Objective:
    """Learn from a mixture of the student's own logits and the teacher's, with more and more of the teacher's.

    start: the teacher's share at first, the authors' 0.2 to 0.4. alpha, beta: how it runs ahead where the loss falls.
    """
    return TAID(start, end, alpha, beta)


@method(paper="Shum et al. 2024, FIRST, EMNLP", needs=("teacher",), example={"tau": 0.2})
def first(
    *, tau: float, k: int = 5, normalise: Literal["softmax", "linear", "none"] = "softmax", smoothing: float = 0.0
) -> Objective:
    """Learn the teacher's k most probable classes only, recalibrated: all that a record of it need hold.

    tau: of both sides' probabilities; the paper's is not known to us, 0.1 to 0.3 keeps their shape. The authors' script
    takes normalise="linear", where tau counts nothing. Meant for a student that is good already: nothing keeps its mass
    within the k classes, unless by "none" or by + CE(). The authors sum over a text's tokens and divide by the number
    of texts; here the mean is over all rows.
    """
    return TopKL(k, normalise, tau, tau, smoothing)


@method(paper="Amara et al. 2022, arXiv:2212.12965", needs=("students", "labels"), example={"delta": 2.0, "tau": 1.0})
def bd_kd(*, delta: float, tau: float, mirrored: bool = False) -> Objective:
    """Train a small and a large network together; each example's KL is balanced by which of them is less sure of it.

    The run's students are [small, large]. The weighting is inferred from the abstract, its numbers are not known to
    us (2 and 1 are the catalogue's); see `BalancedPeers`.
    """
    return BalancedPeers(delta, tau, mirrored)
