"""Methods that transfer a pre-trained transformer."""

from __future__ import annotations

from typing import Literal

from limbeck.blocks.logit import CE, KL
from limbeck.blocks.soft import SoftCE
from limbeck.blocks.transfer import AttentionMSE, HiddenMSE, MaskedCE, PairScores
from limbeck.errors import SettingError
from limbeck.objective import Objective, Stages
from limbeck.registry import method

# --- stages of a transformer --------------------------------------------------------------------------------------


@method(paper="Turc et al. 2019, Pre-trained Distillation, arXiv:1908.08962", needs=("teacher",))
def pre_trained_distillation(*, distil: int | None = None) -> Objective:
    """Distil into a student that was pre-trained itself.

    loss = CE(p, q), at temperature 1 and without labels;  after `distil` epochs CE(y, q), None: never

    The student is pre-trained as a language model first, by MaskedLM or CE, and then learns from a fine-tuned teacher
    on many texts near the task. procedures.staged.staged is for stages on other data. Without BERT's next-sentence
    prediction.
    """
    return SoftCE() if distil is None else Stages(((SoftCE(), distil), (CE(), None)))


def every(depths: tuple[int, int]) -> int:
    """How many of the teacher's layers one of the student's stands for."""
    own, other = depths
    if own < 1 or other % own:
        raise SettingError(f"depths are the student's layers and the teacher's, a multiple of them; got {depths}")
    return other // own


def hidden(depths: tuple[int, int], *, bridge: Literal["learnt", "svd"]) -> HiddenMSE:
    """Of the embeddings and all layers of the student."""
    own, f = depths[0], every(depths)
    return HiddenMSE(tuple((f".hidden.{i}", f".hidden.{i * f}") for i in range(own + 1)), bridge)


def attention(depths: tuple[int, int], *, nonzero: bool) -> AttentionMSE:
    """Of all layers of the student."""
    own, f = depths[0], every(depths)
    return AttentionMSE(tuple((f".attention.{i}", f".attention.{(i + 1) * f - 1}") for i in range(own)), nonzero)


@method(
    paper="Su et al. 2021, ERNIE-Tiny, arXiv:2106.02241",
    needs=("teacher", "labels", "sequences"),
    example={"depths": (2, 2)},
)
def ernie_tiny(
    *, depths: tuple[int, int], task: bool = True, heads: bool = True, tau: float = 1.0, soft: float = 1.0
) -> Objective:
    """Match layers, then the task, one change at a time.

    loss = sum_l MSE(A_s, A_t) + MSE(H_s W, H_t), and with task=True + soft CE(p_tau, q_tau) + CE(y, q)

    Four stages by procedures.staged.staged: the pre-trained teacher on general texts, the fine-tuned one on the same,
    the fine-tuned one on the task's texts, all with task=False, and last task=True. W is learnt for each layer and goes
    on from stage to stage. depths: layers of student and teacher, mapped evenly. heads: False where the models have
    different numbers of heads, which leaves the first term out. Read where the paper is silent: A are probabilities,
    all weights are 1, means are taken per text.
    """
    latent = hidden(depths, bridge="learnt")
    both = attention(depths, nonzero=False) + latent if heads else latent
    return both + soft * SoftCE(tau, tau) + CE() if task else both


@method(
    paper="Ansell et al. 2023, BiStil, arXiv:2306.01709",
    needs=("teacher", "sequences"),
    example={"depths": (2, 2)},
)
def bistil(*, depths: tuple[int, int], task: bool = True, tau: float = 2.0) -> Objective:
    """Keep every f-th layer, and make it do the work of f.

    loss = mean_l MSE(A_s, A_t) where A_t > 0 + mean_l MSE(H_s, H_t V), and with task=True + CE(p_tau, q_tau)
    V: the first right singular vectors of the teacher's states, fixed; none where the widths are equal

    Two phases by procedures.staged.staged: task=False on texts of both languages, then task=True with the teacher of
    the task. procedures.start.thinned makes the student, procedures.sparse.sparse_tuned tunes it sparsely, as the
    second phase does. procedures.cut.cut_vocabulary leaves the embeddings of the two languages. The authors: 200,000
    steps of 8 texts of 256 tokens at 1e-4. The means are taken per text, without padding.
    """
    layers = len(attention(depths, nonzero=True).layers)
    latent = 1 / layers * attention(depths, nonzero=True) + 1 / (layers + 1) * hidden(depths, bridge="svd")
    return latent + SoftCE(tau, tau) if task else latent


# --- contexts and scores ------------------------------------------------------------------------------------------


@method(paper="Li et al. 2024, MEND, ICLR", needs=("teacher", "labels", "sequences"))
def mend(*, lam: float = 1.0, answers: str | None = None) -> Objective:
    """Distil demonstrations into a few vectors.

    loss = CE(y, q) over the answers + lam KL(p || q) over query and answer

    q: the model with the vectors in place of the demonstrations, models.mend.Mend; p: the same model with all of them.
    Label query and answer, and name the answers' mask by `answers`; None: all. The first stage is KL() alone on plain
    text, of which the first 80 % stands for demonstrations; procedures.staged.staged runs both. The authors: 100
    vectors, 30,000 steps at 5e-5, then as many at 1e-5. They cut demonstrations at 900 tokens for the small model and
    at 1024 for the large one; here both read the same.
    """
    return (CE() if answers is None else MaskedCE(answers)) + lam * KL()


@method(paper="Li et al. 2025, LoRID, arXiv:2508.13037", needs=("labels", "sequences"))
def lorid() -> Objective:
    """Tune three adapters, and trust answers that agree.

    loss = CE(y, q), over what an adapter is to write

    One model with three LoRA adapters: question -> reasoning, question -> knowledge, question and knowledge ->
    reasoning. procedures.lorid.tuned trains one, which is this loss alone, and procedures.lorid.agree samples both
    reasoners until they agree on an answer. The authors: r = 512, alpha = 1024, dropout 0.1.
    """
    return CE()


@method(paper="Liu et al. 2021, Trans-Encoder, arXiv:2109.13059", needs=("teacher",), example={"student": "bi"})
def trans_encoder(*, student: Literal["bi", "cross"]) -> Objective:
    """Let bi- and cross-encoder teach each other in turns.

    loss = BCE(cos, x) for a cross-encoder's logit x, (cos - sigmoid(x))^2 for a bi-encoder's cosine

    This is one step; procedures.trans_encoder.trans_encoder runs the cycles. The models give their score as logits
    (b, 1): models.encoders has both. The teacher's cosine may be negative and is not clamped. Of several teachers the
    mean of their scores counts. A text's vector is the authors' with models.encoders.Pooled(which="first"); they cut
    texts at 64 tokens for the cross-encoder and at 32 for the other.
    """
    return PairScores(student)
