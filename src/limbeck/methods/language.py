"""Methods for language models: texts of the student's own, other tokenizers, sequences."""

from __future__ import annotations

from limbeck.blocks.divergence import JSD, SkewKL
from limbeck.blocks.language import OnPolicy, RewardedKL
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Agarwal et al. 2024, GKD, arXiv:2306.13649", needs=("teacher", "tokens"))
def gkd(
    *, beta: float = 0.5, rate: float = 0.5, tau: float = 1.0, temperature: float = 1.0, prompt: int = 1
) -> Objective:
    """Match the teacher on texts that the student writes itself.

    loss = tau^2 JSD_beta(p_tau, q_tau) on completions, of which `rate` are sampled from q at `temperature`

    beta is the teacher's share of the mixture. The paper studies beta and rate in {0, 0.1, 0.5, 0.9, 1} and recommends
    none for all tasks; its loss has tau 1. prompt: see `OnPolicy`.
    """
    return OnPolicy(JSD(beta, tau), rate, temperature, prompt)


@method(paper="Gu et al. 2024, MiniLLM, arXiv:2306.08543", needs=("teacher", "tokens"))
def minillm(*, temperature: float = 1.0, clip: float = 10.0, prompt: int = 1) -> Objective:
    """Reverse KL of whole texts that the student writes itself, by policy gradient.

    loss = KL(q || p) of each distribution - R_t log q(y_t),  y ~ q

    R_t is the mean log ratio of teacher and student of the tokens after t. Without the paper's mixture with the
    teacher's texts and its importance weights, and without its language-modelling loss on another corpus.
    """
    return OnPolicy(RewardedKL(clip), 1.0, temperature, prompt)


@method(paper="Ko et al. 2024, DistiLLM, arXiv:2402.03898", needs=("teacher", "tokens"))
def distillm(
    *, skew: float = 0.1, reverse: bool = True, rate: float = 0.5, temperature: float = 1.0, prompt: int = 1
) -> Objective:
    """Match a skewed mixture of teacher and student, partly on the student's own texts.

    loss = KL(q || skew q + (1 - skew) p), or with reverse=False KL(p || skew p + (1 - skew) q)

    The share of own texts is a constant here; the paper raises it when the validation loss does, and keeps written
    texts in a buffer to use them again.
    """
    return OnPolicy(SkewKL(skew, reverse=reverse), rate, temperature, prompt)
