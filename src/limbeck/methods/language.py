"""Methods for models of texts, whose rows are tokens."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.alignment import ALM, ULD, ChunkStates, Ends, MinED
from limbeck.blocks.divergence import JSD, ReverseKL, SkewKL
from limbeck.blocks.feature import Layer
from limbeck.blocks.language import Among, OffPolicy, OnPolicy, RewardedKL
from limbeck.blocks.logit import CE, KL
from limbeck.blocks.noise import NoisySelf
from limbeck.blocks.sequence import EISL, EMO, REDI, CertaintyForcing, FlipFlop, MaskedKL, TokenStates
from limbeck.losses.alignment import Compare
from limbeck.objective import Objective
from limbeck.registry import method

# --- labels -------------------------------------------------------------------------------------------------------


@method(paper="Ren et al. 2024, EMO, arXiv:2310.04691", needs=("labels",))
def emo(*, variant: Literal["emo1", "emo2"] = "emo1", limit: float | None = None) -> Objective:
    """Forgive a token that is close to the right one.

    loss = (r d + CE(y, q)) / 2,  d = sum_c q_c (1 - cos(e_c, e_y)),  r = CE(y, q) / d, a constant
    e: the rows of the student's last layer, constants

    The earth mover's distance between q and the label where moving mass costs the cosine distance of embeddings. The
    value is the cross-entropy's, so compare by what the model says. "emo2", d + CE(y, q) d / CE(y, q), is for models
    that are good already. limit: the largest r; the authors' continual fine-tuning takes 3.
    """
    return EMO(variant, limit)


@method(paper="Liu et al. 2022, EISL, arXiv:2106.15078", needs=("labels", "sequences"), example={"ce": 0.3})
def eisl(*, ce: float, ngrams: tuple[int, ...] = (2, 3, 4), tau: float = 1.0, gumbel: bool = True) -> Objective:
    """Let each n-gram of the target stand at any place.

    loss = ce CE(y, q) - mean_n mean_j sum_i w_ij m_ij,  m_ij = mean_d log q_(i + d), y_(j + d),  d = 0 .. n - 1
    w: softmax of m + Gumbel noise over the places i

    For targets that are shifted, repeated or shuffled, such as those that a model wrote. Train by cross-entropy first:
    Stages(((CE(), 5), (EISL(), None))). ce: 0 to 1 in the paper, by task.
    """
    return ce * CE() + EISL(tuple(ngrams), tau, gumbel)


@method(paper="Xu et al. 2025, REDI, arXiv:2505.24850", needs=("labels", "sequences", "wrong"))
def redi(*, alpha: float = 0.8, gamma: float = 0.0) -> Objective:
    """Learn from a teacher's wrong answers too.

    loss = -u_right + alpha u_wrong exp(gamma u_wrong),  u: an answer's mean log probability per token

    The second stage, after cross-entropy on the right answers (AdamW(5e-5), 3 epochs): AdamW(1e-6), one epoch in
    batches of 32. Nothing bounds it from below,
    and with a larger alpha or learning rate the right answers' u falls too: watch it. The data's masks say which
    answers are "right" and "wrong".
    """
    return REDI(alpha, gamma)


# --- a model's own answers ----------------------------------------------------------------------------------------


@method(
    paper="Hejabi et al. 2025, F2C, arXiv:2510.14242",
    needs=("strong",),
    example={
        "views": ("x", "strong"),
        "tau": 1.5,
        "top_k": 4,
        "low": 0.001,
        "high": 0.015,
        "temperature": 2.0,
        "beta": 0.05,
    },
)
def f2c(
    *,
    views: tuple[str, ...],
    tau: float,
    top_k: int,
    low: float,
    high: float,
    temperature: float,
    beta: float,
    ce: float = 1.0,
) -> Objective:
    """Agree with oneself over ways of asking, without labels.

    loss = ce CE(c, q_k) + beta (KL(m || q_k) + KL(q_k || m)) / 2 + w KL(m || q_k),  mean over the views k of each term
    c: the majority's answer, m: the mean of q over the majority's surest views, w by how much surer they are

    Only where more than half of the views agree; the last term is for the other views, with m a constant. The numbers
    of the example are the authors' for ANLI, who choose them by data set. Agreement also rises where accuracy
    collapses: small learning rate, few steps. Take three views at least.
    """
    return FlipFlop(tuple(views), tau, top_k, low, high, temperature, beta, ce)


@method(
    paper="Chen et al. 2025, dParallel, arXiv:2509.26488", needs=("labels", "sequences"), example={"mask_token": 11}
)
def dparallel(*, mask_token: int, beta: float = 2.0, tau: float = 0.5, block: int = 32) -> Objective:
    """Be sure of many masked tokens at once.

    loss = CE(y, q) + beta H(q_tau) [argmax q = y],  over the masked tokens of one block of each answer

    Self-distillation of a masked-diffusion model on its own answers: what it now decodes token by token becomes sure in
    parallel. The defaults are those for LLaDA; Dream's are beta = 1 and the whole answer as one block. The student sees
    both sides, as GPT(causal=False) does, and `generate.fill` decodes, its answers to learn from too, of which the
    authors keep the right ones. They train LoRA of r = 128, 6 epochs at 2e-5. mask_token: the id that stands for a
    masked token.
    """
    return CertaintyForcing(mask_token, beta, tau, block)


@method(
    paper="Khadangi et al. 2025, NoiseFiT, arXiv:2504.03302",
    needs=("labels", "sequences"),
    example={"layers": ("blocks.0", "blocks.1"), "std": 0.1, "most": 1},
)
def noisefit(
    *,
    layers: tuple[str, ...],
    std: float,
    most: int | None = 3,
    which: Literal["largest", "lowest"] = "largest",
    alpha: float = 0.5,
    consistency: float = 0.1,
) -> Objective:
    """Let the clean pass teach passes with noisy layers.

    loss = alpha CE(y, q) + (1 - alpha) (KL(q || q') + KL(q || q'')) / 2 + consistency KL(q'' || q'),  q', q'': noisy

    Of `layers`, those with the largest (or lowest) signal-to-noise ratio are perturbed, by noise in proportion to their
    states' spread; the authors' other factor, of the entropy of the logits, and their learnt gate of later versions are
    not here. Three forward passes a step.
    """
    noisy = NoisySelf(tuple(layers), std, most, which, soft=round(1 - alpha, 12), consistency=consistency)
    return alpha * CE() + noisy


# --- a teacher ----------------------------------------------------------------------------------------------------


@method(paper="Li et al. 2024, SIU, arXiv:2405.12523", needs=("teacher", "labels"), example={"forget": (3,)})
def siu(*, forget: tuple[int, ...], where: str | None = None, ce: float = 0.9, kl: float = 0.75) -> Objective:
    """Unlearn a concept, and stay oneself in all else.

    loss = ce CE(y, q) + kl sum_c p_c log(p_c / q_c) over the classes c not in `forget`

    The labels are the new answers; the teacher is a frozen copy of the student before. forget: the tokens of the
    concept's names, the same for all examples, where the paper has each example's own. where: a mask of the tokens
    that were not changed, for the KL; None: all. A few steps do (the authors: 6 of 4 examples, LoRA, Adam at 3e-4), so
    evaluate after each.
    """
    return ce * CE() + kl * MaskedKL(tuple(forget), where)


@method(
    paper="Tang et al. 2021, VidLanKD, arXiv:2107.02681",
    needs=("teacher", "labels", "sequences"),
    example={"layer": "blocks.1"},
)
def vidlankd(*, layer: Layer, ratio: float = 1.0, contrast: float = 1.0) -> Objective:
    """Match a video-taught teacher's states of tokens.

    loss = CE(y, q) + ratio (mean_ij (s_i . s_j)^2 - 2 (s_i . t_j)^2 + (t_i . t_j)^2 + contrast NT-Xent(h, g))
    s, t: neurons of student and teacher as unit vectors over a sequence's tokens,  h, g: a token's states

    The student's states go through a head that is learnt. layer: a path in both models, or (student's, teacher's). Some
    of the authors' runs have contrast = 0. Their student is a BERT, whose CE is MaskedLM's; 500,000 steps of 64 texts
    of 126 tokens at 2e-4. The teacher's own training, a hinge of states against videos, is not here.
    """
    return CE() + ratio * TokenStates(layer, contrast=contrast)


@method(paper="Liu et al. 2024, DDK, arXiv:2407.16154", needs=("teacher", "labels"))
def ddk(*, gamma: float = 0.2, tau: float = 1.0, reverse: bool = False) -> Objective:
    """Learn most from the domains where the student is behind.

    loss = CE(y, q) + gamma tau^2 KL(p_tau || q_tau), or with reverse=True KL(q_tau || p_tau)

    The domains' shares are what is new: run it with procedures.domains.Mixture. The paper writes the student first,
    which may mean either direction. Its learning rate is 3e-5.
    """
    return CE() + gamma * (ReverseKL(tau) if reverse else KL(tau))


# --- a teacher with another tokenizer -----------------------------------------------------------------------------


@method(
    paper="Minixhofer et al. 2025, ALM, arXiv:2503.20083",
    needs=("teacher", "labels", "sequences", "tokenizers"),
    example={"weight": 100.0},
)
def alm(
    *,
    weight: float,
    compare: Compare = "kl",
    tau: float = 100.0,
    merge: float | None = 0.1,
    ends: Ends = "word",
    states: float = 0.0,
    project: bool = True,
) -> Objective:
    """Make chunks of text as likely as a teacher makes them.

    loss = CE(y, q) + weight mean_c KL(exp(l_t / tau), exp(l_s / tau)) + states mean_c (W h_s - h_t)^2 / mean_c h_t^2
    l: log probability of a chunk c of text which both tokenizers cut out, and that a word ends behind it
    KL: of the two answers yes and no,  h: the last state of a chunk

    The gradient of the KL is about 1 / tau small; the authors give no weight but balance the terms, as does
    GradMag(CE() + ALM(merge=0.1), layer="the last"). merge: chunks are joined up to where the teacher finds the end of
    a word that likely; None: neither that nor the word's end. ends="unbiased", merge=1e-4: the paper's chunks, joined
    up to where a cut says nothing of the text to come. states: the authors found it to help only where the student is
    made of the teacher, project=False. They train LoRA of rank 64 (all of it for bytes), AdamW(1e-5), batches of 64.
    """
    method = CE() + weight * ALM(compare, tau, merge, ends=ends)
    return method + states * ChunkStates(project=project) if states else method


@method(paper="Boizard et al. 2024, ULD, arXiv:2402.12030", needs=("teacher", "labels", "sequences", "tokenizers"))
def uld(*, weight: float = 1.5, tau: float = 1.0) -> Objective:
    """Match sorted probabilities, whatever the tokens are.

    loss = CE(y, q) + weight sum_i |q_(i) - p_(i)|,  the i-th largest at tau, of the tokens in the same place

    The mean over the tokens that both have. A baseline that knows nothing of the vocabularies. weight: the authors'
    1.5.
    """
    return CE() + weight * ULD(tau)


@method(
    paper="Wan et al. 2024, FuseLLM, arXiv:2401.10491",
    needs=("teacher", "labels", "sequences", "tokenizers"),
    example={"weight": 1.0},
)
def mined(*, weight: float, tau: float = 1.0) -> Objective:
    """Map each token to the teacher's of least edit distance.

    loss = CE(y, q) + weight m,  m = tau^2 KL(p'_tau || q_tau) where a token has the bytes of one of the teacher's
    p': p at the teacher's tokens nearest to the student's;  elsewhere m = CE(y, q)

    A baseline, of one teacher; FuseLLM fuses several. ALM's authors take tau = 2, for the labels too, and no tau^2.
    """
    return CE() + weight * MinED(tau)


# --- texts of the student's own -----------------------------------------------------------------------------------


@method(paper="Agarwal et al. 2024, GKD, arXiv:2306.13649", needs=("teacher", "sequences"))
def gkd(
    *, beta: float = 0.5, rate: float = 0.5, tau: float = 1.0, temperature: float = 1.0, prompt: int = 1
) -> Objective:
    """Match the teacher on the student's own texts.

    loss = tau^2 JSD_beta(p_tau, q_tau) on completions, of which `rate` are sampled from q at `temperature`

    beta is the teacher's share of the mixture. The paper studies beta and rate in {0, 0.1, 0.5, 0.9, 1} and recommends
    none for all tasks; its loss has tau 1. Its sum with a reward of reinforcement learning is left out. prompt: see
    `OnPolicy`.
    """
    return OnPolicy(JSD(beta, tau), rate, temperature, prompt)


@method(paper="Gu et al. 2024, MiniLLM, arXiv:2306.08543", needs=("teacher", "sequences"))
def minillm(
    *, mixed: float = 0.2, temperature: float = 1.0, clip: float = 10.0, corpus: float = 0.0, prompt: int = 1
) -> Objective:
    """Reverse KL of the student's own texts, as a reward.

    loss = w (KL(q || p) - R log q_y) + corpus CE(d, q),  y ~ m = mixed p + (1 - mixed) q,  w = q_y / m_y

    R: the mean log ratio of teacher and student of the tokens after y; w and R are constants. mixed: the paper's 0.2;
    above 0 the teacher generates too. corpus: the paper has 1, with d from a corpus of the pre-training; the data's
    mask "corpus" says which examples are d. The authors' AdamW(5e-6), from a student that has learnt the labels.
    """
    own = RewardedKL(clip, mixed)
    if corpus == 0:
        return OnPolicy(own, 1.0, temperature, prompt, teacher=mixed)
    both = Among(own, "own") + corpus * Among(CE(), "given")
    return OnPolicy(both, 1.0, temperature, prompt, teacher=mixed, keep="corpus")


@method(paper="Ko et al. 2024, DistiLLM, arXiv:2402.03898", needs=("teacher", "sequences"))
def distillm(
    *,
    skew: float = 0.1,
    reverse: bool = True,
    rate: float = 0.5,
    rise: float = 0.0,
    slack: float = 0.1,
    replay: int = 1000,
    temperature: float = 1.0,
    prompt: int = 1,
) -> Objective:
    """Match a mixture with the teacher, also on own texts.

    loss = KL(q || skew q + (1 - skew) p), or with reverse=False KL(p || skew p + (1 - skew) q)

    rate: the share of own texts. The paper's is adaptive, rate=0, rise=0.1: that much more after each epoch whose nll
    on the run's test data, which are then to validate on, is `slack` higher than when it last rose. replay: own texts
    that are kept, and used again the more often the longer the run. The paper adds CE on a corpus of the pre-training,
    as `minillm` can.
    """
    return OffPolicy(SkewKL(skew, reverse=reverse), rate, temperature, prompt, rise=rise, slack=slack, replay=replay)
