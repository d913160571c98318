"""Methods for few labels and many unlabelled examples."""

from __future__ import annotations

from limbeck.blocks.semi import EMAPseudoLabel, PseudoLabel
from limbeck.blocks.soft import SymmetricKL
from limbeck.blocks.targets import DHO
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Sohn et al. 2020, arXiv:2001.07685", needs=("labels", "unlabelled", "strong"))
def fixmatch(*, threshold: float = 0.95, weight: float = 1.0) -> Objective:
    """Learn one's own sure labels on strongly augmented views.

    loss = CE(y, q),  without a label weight [max_c q_c >= threshold] CE(argmax q, q of the strong view)

    The paper takes 7 unlabelled examples per labelled one (`unlabelled=7`) and evaluates an average of the weights;
    here the last weights are evaluated. The authors' unlabelled examples are all images, the labelled ones' too, here
    only those without a label; and here the labelled ones' strong views are in the forward as well, with no loss.
    """
    return PseudoLabel(threshold, weight)


@method(
    paper="Tarvainen & Valpola 2017, arXiv:1703.01780; Sohn et al. 2020, arXiv:2001.07685",
    needs=("labels", "unlabelled", "strong"),
)
def ema_pseudo_label(*, threshold: float = 0.95, decay: float = 0.999, weight: float = 1.0) -> Objective:
    """As fixmatch, labelled by an average of past weights.

    loss = CE(y, q),  without a label weight [max_c q'_c >= threshold] CE(argmax q', q of the strong view)
    q': of the averaged weights, w' = decay w' + (1 - decay) w
    """
    return EMAPseudoLabel(threshold, decay, weight)


@method(paper="Kang et al. 2025, arXiv:2505.07675", needs=("teacher", "labels"))
def dho(*, tau: float = 2.0, weight: float = 0.5, alpha: float = 0.5, beta: float = 0.5) -> Objective:
    """One head for the labels, one for the teacher.

    loss = weight CE(y, q) + (1 - weight) tau^2 KL(p_tau || g_tau),  without a label the second part alone
    q, g: of the two heads;  the student's answer is alpha q + (1 - alpha) g_beta

    Their probabilities are mixed. alpha, beta: the authors' for ImageNet; elsewhere they are chosen on validation data,
    `heads.DualHead.choose`.
    """
    return DHO(tau, weight, alpha, beta)


@method(paper="Cui et al. 2021, SSLD, arXiv:2103.05959", needs=("teacher",))
def ssld() -> Objective:
    """Match in both directions of the KL, without labels.

    loss = 1/2 (KL(p || q) + KL(q || p))

    On many and then on few examples. procedures.select.ssld chooses the examples and makes both stages. What the
    authors call a Jensen-Shannon divergence is half of Jeffreys'. Near-duplicates of the test set are found by SIFT
    there, by the cosine of features here (`data.select.near`).
    """
    return SymmetricKL()
