"""Objectives between models whose tokenizers differ. They need `data.paired.Paired`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.align import NONE, Piece, nearest_pieces, pairs, pieces
from limbeck.data import UNLABELLED
from limbeck.data.paired import Paired, last_of
from limbeck.errors import SettingError
from limbeck.losses.alignment import Compare, chunk_divergence, chunk_log_probabilities, mapped, merged_chunks, uld
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.signals import Output
from limbeck.step import Player, Step

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class ALM(Objective):
    """Chunks of text that are whole tokens to both tokenizers are as likely to the student as to the teacher
    (Minixhofer et al. 2025, ALM, arXiv:2503.20083); the mean over the chunks. See `chunk_divergence`.

    The first chunk of a text, part of which nobody predicts, does not count; in the authors' code it does where the
    teacher has a part of it that is predicted.

    merge: the teacher's probability of a new word from which a chunk ends there, the authors' 0.1; chunks before are
        put together, and the probability of a new word is part of a chunk's, so that what a tokenizer's cut says of
        the text to come weighs less. The sum is then still divided by the number of chunks before merging, which is
        known from the data. None: all chunks as they are.
    """

    compare: Compare = "kl"
    tau: float = 100.0
    merge: float | None = None
    alpha: float = 0.5
    eps: float = 1e-6

    def init(self, run: Run) -> nn.Module:
        data, state = paired(run), nn.Module()
        if self.merge is not None:
            for name, tokenizer in (("own", data.tokenizer), ("teachers", data.teacher_tokenizer)):
                state.register_buffer(name, torch.tensor([new_word(piece) for piece in pieces(tokenizer)]))
        return state

    def loss(self, step: Step, state: Any) -> Terms:
        chunk, its_chunk = step.batch.inputs["chunk"], step.batch.inputs["teacher.chunk"]
        chunks = chunk.shape[1]
        ends = step.batch.masks["chunks"]  # (b, n), in the order of the chunks
        keys = (chunk + chunks * torch.arange(len(chunk), device=chunk.device)[:, None])[ends]
        own = log_probabilities(step.student, chunk, chunks)[keys]
        its = log_probabilities(step.teacher, its_chunk, chunks)[keys]
        rows = step.mask("chunks").nonzero().squeeze(1)
        if self.merge is not None and len(keys):
            last = last_of(keys[None] // chunks)[0]  # of each text
            a = boundary(step.student.whole("x").at(ends), state.own)
            b = boundary(step.teacher.whole("x").at(last_of(its_chunk)), state.teachers)
            merged = merged_chunks(b.exp().masked_fill(last, 2.0), torch.ones_like(last), threshold=self.merge)
            kept, most = last_of(merged[None])[0], int(merged.max()) + 1
            own = chunk_log_probabilities(own, merged, most) + a[kept]
            its = chunk_log_probabilities(its, merged, most) + b[kept]
            rows = rows[kept]
        settings: dict[str, Any] = {"compare": self.compare, "tau": self.tau, "alpha": self.alpha, "eps": self.eps}
        far = chunk_divergence(own, its, **settings)
        return {"alm": Term(far.new_zeros(step.rows).index_put((rows,), far), where="chunks")}


@dataclass(frozen=True)
class ULD(Objective):
    """`uld` of the i-th token of a text in the one tokenization and the i-th in the other, whatever they are, as far as
    both go; 0 for the student's other tokens (Boizard et al. 2024, arXiv:2402.12030)."""

    tau: float = 1.0

    def init(self, run: Run) -> nn.Module:
        paired(run)
        return nn.Module()

    def loss(self, step: Step, state: Any) -> Terms:
        places = [places_of(step.student), places_of(step.teacher)]
        most = max(each.shape[1] for each in places)
        both = [F.pad(each, (0, most - each.shape[1])) for each in places]
        met = both[0] & both[1]
        student, teacher = (
            player("x").logits[met[:, : each.shape[1]][each]]
            for player, each in zip((step.student, step.teacher), places, strict=True)
        )
        rows = met[:, : places[0].shape[1]][places[0]].nonzero().squeeze(1)
        far = uld(student, teacher, tau=self.tau)
        return {"uld": far.new_zeros(step.rows).index_put((rows,), far)}


@dataclass(frozen=True)
class MinED(Objective):
    """tau**2 KL(teacher || student) where a token of the one covers the bytes of a token of the other, the teacher's
    logits put at the student's tokens of least edit distance; cross-entropy with the label elsewhere (Wan et al. 2024,
    FuseLLM, arXiv:2401.10491; the mean over all tokens as in the baseline of ALM's authors)."""

    tau: float = 1.0

    def init(self, run: Run) -> nn.Module:
        data, state = paired(run), nn.Module()
        found = nearest_pieces(pieces(data.tokenizer), pieces(data.teacher_tokenizer))
        state.register_buffer("index", found)
        return state

    def loss(self, step: Step, state: Any) -> Terms:
        chunk, its_chunk = step.batch.inputs["chunk"], step.batch.inputs["teacher.chunk"]
        ours = step.batch.row_of(pairs(chunk, its_chunk)) != NONE
        theirs = step.teacher.batch.row_of(pairs(its_chunk, chunk)) != NONE  # as many, in the same order
        logits = step.student("x").logits
        target = mapped(step.teacher("x").logits[theirs], state.index)
        far = cross_entropy(logits, torch.where(ours, UNLABELLED, step.y))
        rows = ours.nonzero().squeeze(1)
        return {"mined": far.index_put((rows,), kl(logits[ours], target, tau=self.tau))}


def paired(run: Run) -> Paired:
    if not isinstance(run.train_data, Paired):
        raise SettingError(
            "the tokens of two tokenizers are compared: give data=Paired.packed(texts, tokenizer, length, "
            "teacher=its_tokenizer), of limbeck.data.paired"
        )
    return run.train_data


def places_of(player: Player) -> Tensor:
    """Where the rows of a model are: (b, n) bool."""
    places = player.batch.positions
    assert places is not None  # Paired has labels of tokens
    return places


def log_probabilities(player: Player, chunk: Tensor, chunks: int) -> Tensor:
    """(b chunks,) of each chunk of a batch, to one of the models."""
    batch = player.batch
    log_p = -cross_entropy(player("x").logits, batch.row_labels)  # type: ignore[arg-type]
    number = chunk + chunks * torch.arange(len(chunk), device=chunk.device)[:, None]
    number = batch.row_of(torch.where(chunk == NONE, NONE, number))
    return chunk_log_probabilities(log_p, number, chunks * len(chunk))


def new_word(piece: Piece) -> bool:
    """Does a token start one? Special tokens do."""
    return isinstance(piece, str) or (piece is not None and piece[:1].isspace())


def boundary(output: Output, starts: Tensor) -> Tensor:
    """(k,) log probability that a token which starts a word comes next."""
    log_p: Tensor = output.logits.log_softmax(-1)[:, starts].logsumexp(-1)
    return log_p.clamp(max=0.0)
