"""Objectives on texts: on each token among all tokens, and on the sequences that they make.

A sequence is an example's labelled tokens, in their order; where a label is an example's, it is a sequence of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from limbeck.blocks.feature import Layer, both, reads_of
from limbeck.data.draws import uniform
from limbeck.data.masking import semi_autoregressive
from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.contrastive import nt_xent
from limbeck.losses.divergence import masked_kl
from limbeck.losses.feature import nst
from limbeck.losses.inputs import directions, wide
from limbeck.losses.logit import cross_entropy
from limbeck.losses.sequence import (
    certainty,
    eisl,
    emo,
    mixture_jeffreys,
    mixture_kl,
    redi,
    sequence_nll,
    vote,
)
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run


def sequences(step: Step, rows: Tensor, *, fill: float = 0.0) -> Tensor:
    """(rows, ...) of a step as (b, longest, ...): each example's own, then `fill`."""
    positions = step.batch.positions
    counts = [1] * step.rows if positions is None else positions.sum(1).tolist()
    return pad_sequence(list(rows.split(counts)), batch_first=True, padding_value=fill)


# --- tokens -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EMO(Objective):
    """Cross-entropy and the earth mover's distance to the label over the labelled rows, tokens being as far from each
    other as the rows of the student's last layer are by cosine (Ren et al. 2024, EMO, adaptive; for "fixed" embeddings
    of another model see `losses.emo`).

    variant, limit: see `losses.emo`.
    """

    variant: Literal["emo1", "emo2"] = "emo1"
    limit: float | None = None

    def loss(self, step: Step, state: Any) -> Terms:
        output = step.student("x")
        logits = output.logits
        head: Any = output.head or step.run.students[0].last("student")
        value = emo(logits, step.y, head.weight[: logits.shape[-1]], variant=self.variant, limit=self.limit)
        return {"emo": Term(value, where="labelled")}


@dataclass(frozen=True)
class MaskedKL(Objective):
    """KL(teacher || student) over all classes but `forget`, without renormalising (Li et al. 2024, SIU).

    where: the mask of the rows that count; None: all.
    """

    forget: tuple[int, ...]
    where: str | None = None

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = step.student("x").logits, step.teacher("x").logits
        kept = torch.ones(student.shape[-1], dtype=torch.bool, device=student.device)
        if not all(0 <= each < len(kept) for each in self.forget):
            raise SettingError(f"forget names classes in 0..{len(kept) - 1}; got {self.forget}")
        kept[list(self.forget)] = False
        return {"masked_kl": Term(masked_kl(student, teacher, kept), where=self.where)}


@dataclass(frozen=True)
class CertaintyForcing(Objective):
    """A model that fills in masked tokens learns its own answers as it decodes them: one block of each is masked, half
    of it in one pass, the other half in a second one, and where its first choice is right it is to be sure of it
    (Chen et al. 2025, dParallel).

    mask_token: the id that stands for a masked token. beta: weight of the entropy. tau: its temperature. block: how
    many tokens are decoded together. ratio: share of the block that the first pass masks.

    As everywhere, a token is predicted at the place before it, as Dream does. A model that sees both sides and predicts
    a token at its own place (LLaDA) is handed over with logits moved by one: Net(model, forward=...). The mean entropy
    is each micro-batch's own, so the method couples examples.
    """

    couples: ClassVar[bool] = True

    mask_token: int
    beta: float = 2.0
    tau: float = 0.5
    block: int = 32
    ratio: float = 0.5

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        x = batch.view("x")
        if batch.predicted is None or "input_ids" not in x:
            raise SettingError("tokens can be masked in sequences of them: data with input_ids and labels (n, length)")
        ids = x["input_ids"]
        u = uniform(step.run.seed, batch.index, epoch=step.run.steps_done, stream="masking", n=1 + ids.shape[1])
        masks = semi_autoregressive(batch.predicted, u, block=self.block, ratio=self.ratio)
        for name, hidden in (("first", masks.first), ("second", masks.second)):
            batch.made[name] = {**x, "input_ids": ids.masked_fill(hidden | masks.after, self.mask_token)}
            batch.masks[name] = hidden
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        terms = {}
        for name in ("first", "second"):
            logits, y = step.student(name).logits, step.y.masked_fill(~step.mask(name), UNLABELLED)
            terms[f"ce/{name}"] = Term(cross_entropy(logits, y), where=name)
            terms[f"entropy/{name}"] = Term(self.beta * certainty(logits, y, tau=self.tau), where=name)
        return terms


# --- sequences ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EISL(Objective):
    """Each n-gram of the labels may be said at any place of its sequence (Liu et al. 2022, EISL).

    ngrams, tau: see `losses.eisl`. gumbel: add Gumbel noise to the choice of places, as the authors do.
    """

    ngrams: tuple[int, ...] = (2, 3, 4)
    tau: float = 1.0
    gumbel: bool = True

    def loss(self, step: Step, state: Any) -> Terms:
        y = sequences(step, step.y, fill=UNLABELLED)
        noise = [self.noise(step, k) for k in range(len(self.ngrams))] if self.gumbel else None
        value = eisl(sequences(step, step.student("x").logits), y, ngrams=self.ngrams, tau=self.tau, noise=noise)
        return {"eisl": Term(value, where="sequences")}

    def noise(self, step: Step, order: int) -> Tensor:
        """(b, length, length), of the whole length, so that it is the same in every micro-batch."""
        batch = step.batch
        n = 1 if batch.positions is None else batch.positions.shape[1]
        u = uniform(step.run.seed, batch.index, epoch=step.run.steps_done, stream=f"eisl/{order}", n=n * n)
        return -(-u.clamp(1e-7, 1 - 1e-7).log()).log().view(-1, n, n)


@dataclass(frozen=True)
class REDI(Objective):
    """Raise the log probability per token of right answers, and lower that of wrong ones with less weight (Xu et al.
    2025, REDI).

    The data's masks (n,) say which answers are which: Data(..., masks={"right": right, "wrong": ~right}). A pair's loss
    is a sum over its two answers, so they may lie in different batches; each of the two terms is a mean over its own
    kind. alpha, gamma: see `losses.redi`.
    """

    alpha: float = 0.8
    gamma: float = 0.0

    def loss(self, step: Step, state: Any) -> Terms:
        log_p = -sequences(step, cross_entropy(step.student("x").logits, step.y)).sum(1)
        length = sequences(step, step.y != UNLABELLED).sum(1)
        value = redi(log_p, length, step.mask("right"), alpha=self.alpha, gamma=self.gamma)
        return {name: Term(value, where=name) for name in ("right", "wrong")}


@dataclass(frozen=True)
class FlipFlop(Objective):
    """The student on several views of an example settles on a majority answer and learns it; of the majority, the
    views with the largest margins teach the others their mixture (Hejabi et al. 2025, F2C). No labels are used.

    views: names of three or more, for there to be a panel and students. ce, beta: weights of the majority answer and
    of the agreement within the panel. tau, top_k, low, high, temperature: see `losses.vote`.

    An answer is one class, or one token: what the authors sum over an answer's tokens. Examples without a majority
    count with 0, where the authors skip them.
    """

    views: tuple[str, ...]
    tau: float
    top_k: int
    low: float
    high: float
    temperature: float
    beta: float
    ce: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        logits = torch.stack([step.student(view).logits for view in self.views], 1)
        voted = vote(
            wide(logits.detach()).log_softmax(-1),
            tau=self.tau,
            top_k=self.top_k,
            low=self.low,
            high=self.high,
            temperature=self.temperature,
        )
        answer = voted.choice[:, None, None].expand(*logits.shape[:2], 1)
        logits, panel, students = logits.unsqueeze(2), voted.panel.unsqueeze(2), voted.students.unsqueeze(2)
        return {
            "consensus": self.ce * voted.agreed * sequence_nll(logits, answer).mean(1),
            "jeffreys": self.beta * mixture_jeffreys(logits, panel),
            "kl": voted.weight * mixture_kl(logits, panel, students),
        }


# --- states of tokens ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenStates(Objective):
    """The student's states of tokens, through a learnt head, against the teacher's: as neurons that are active at the
    same tokens (NST), and token by token, against the same place of the batch's other sequences (Tang et al. 2021,
    VidLanKD).

    layer: a path in both models, or (student's, teacher's). nst, contrast: weights; 0 leaves one out. tau: of the
    contrast; 1 in the authors' training.

    Deviations: labelled tokens only. The authors sum NST over the batch and divide by the length, here it is the mean
    over sequences; they divide the contrast by 2 b once more. The same head serves both.
    """

    layer: Layer
    nst: float = 1.0
    contrast: float = 1.0
    tau: float = 1.0

    @property
    def couples_examples(self) -> bool:
        return self.contrast > 0

    @property
    def reads(self) -> Reads:
        return reads_of(self.layer)

    def init(self, run: Run) -> nn.Module:
        student, teacher = both(self.layer)
        width = run.shape("teacher", teacher)[-1]
        first = nn.Linear(run.shape("student", student)[-1], width)
        return nn.Sequential(first, nn.GELU(), nn.LayerNorm(width), nn.Linear(width, width))

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = both(self.layer)
        ours, theirs = directions(state(step.student("x")[student])), directions(step.teacher("x")[teacher])
        terms: dict[str, Term | Tensor] = {}
        if self.nst > 0:
            neurons = [sequences(step, states).mT for states in (ours, theirs)]  # (b, width, tokens)
            terms["nst"] = Term(self.nst * nst(*neurons), where="sequences")
        if self.contrast > 0:
            terms["contrast"] = self.contrast * by_place(step, lambda i: nt_xent(ours[i], theirs[i], tau=self.tau))
        return terms


def by_place(step: Step, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """(rows,): `loss` of the rows of each place in their sequences, told by their numbers."""
    numbers = sequences(step, torch.arange(step.rows, device=step.index.device), fill=-1)
    together = [place[place >= 0] for place in numbers.T]
    return torch.cat([loss(rows) for rows in together])[torch.cat(together).argsort()]
