"""Objectives between models whose tokenizers differ. They need `data.paired.Paired`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from limbeck.align import NONE, Piece, biases, nearest_pieces, pairs, pieces
from limbeck.blocks.feature import Layer, both, reads_of
from limbeck.data import UNLABELLED, given
from limbeck.data.paired import Paired, last_of
from limbeck.errors import SettingError
from limbeck.losses.alignment import Compare, chunk_divergence, chunk_log_probabilities, mapped, merged_chunks, uld
from limbeck.losses.inputs import wide
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.signals import Output
from limbeck.step import Player, Step

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run

#: Where a chunk may end, see `ALM`.
Ends = Literal["word", "unbiased"]


@dataclass(frozen=True)
class ALM(Objective):
    """Chunks of text that are whole tokens to both tokenizers are as likely to the student as to the teacher
    (Minixhofer et al. 2025, ALM, arXiv:2503.20083); the mean over the chunks. See `chunk_divergence`.

    The first chunk of a text, part of which nobody predicts, does not count; in the authors' code it does where the
    teacher has a part of it that is predicted.

    merge: chunks are put together until one may end, and the probability of a new word is part of a chunk's, so that
        what a tokenizer's cut says of the text to come weighs less. None: all chunks as they are.
    ends: a chunk may end behind a "word", where the teacher's probability of a new one exceeds `merge`, the authors'
        0.1; the sum is still divided by the number of chunks before merging, which is known from the data. Or where
        the two tokens' `align.biases`, by their shares of the data's labels, are at most `merge`: "unbiased", the
        paper's, 1e-4. The end of a text ends a chunk always.
    """

    compare: Compare = "kl"
    tau: float = 100.0
    merge: float | None = None
    alpha: float = 0.5
    eps: float = 1e-6
    ends: Ends = "word"

    def __post_init__(self) -> None:
        if self.ends not in ("word", "unbiased") or (self.merge is not None and not 0 <= self.merge < 1):
            raise SettingError(
                f"ALM takes merge in [0, 1) or None, ends='word' or 'unbiased'; got {self.merge}, {self.ends!r}"
            )

    @property
    def unbiased(self) -> bool:
        return self.merge is not None and self.ends == "unbiased"

    def init(self, run: Run) -> nn.Module:
        data, state = paired(run), nn.Module()
        if self.merge is not None:
            for name, tokenizer in (("own", data.tokenizer), ("teachers", data.teacher_tokenizer)):
                state.register_buffer(name, torch.tensor([new_word(piece) for piece in pieces(tokenizer)]))
        if self.unbiased:
            every = next(data.batches([torch.arange(len(data))])).valid()
            met, shares = ends_of(every.inputs, every.masks["chunks"]).unique(dim=0), []
            labels = given(every.y), every.inputs["teacher.y"]
            for y, tokenizer in zip(labels, (data.tokenizer, data.teacher_tokenizer), strict=True):
                counts = y[y != UNLABELLED].bincount(minlength=tokenizer.vocab_size).double()
                shares.append(((counts / counts.sum() + 1e-9) / (1 + 1e-9 * len(counts))).tolist())
            found = biases([(i, j) for i, j in met.tolist()], (data.tokenizer, data.teacher_tokenizer), shares)
            state.register_buffer("met", met[:, 0] * data.teacher_tokenizer.vocab_size + met[:, 1])
            state.register_buffer("may_end", torch.tensor(found) <= cast("float", self.merge))
        return state

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        batch.of("teacher")  # raises where it cannot be asked
        if self.unbiased:  # how many there are is counted before the loss
            ends = batch.masks["chunks"]
            batch.masks["merged"] = ends.masked_scatter(ends, self.may_end(batch, state))
        return batch

    def may_end(self, batch: Batch, state: Any) -> Tensor:
        """(k,) True at the chunks whose last tokens let them end, and at the last of a text."""
        ends = batch.masks["chunks"]
        own, its = ends_of(batch.inputs, ends).T
        may_end: Tensor = state.may_end[torch.searchsorted(state.met, own * len(state.teachers) + its)]
        return may_end | last_chunks(ends)

    def loss(self, step: Step, state: Any) -> Terms:
        chunk, its_chunk = step.batch.inputs["chunk"], step.batch.inputs["teacher.chunk"]
        chunks = chunk.shape[1]
        ends = step.batch.masks["chunks"]  # (b, n), in the order of the chunks
        keys = (chunk + chunks * torch.arange(len(chunk), device=chunk.device)[:, None])[ends]
        own = log_probabilities(step.student, chunk, chunks)[keys]
        its = log_probabilities(step.teacher, its_chunk, chunks)[keys]
        rows = step.mask("chunks").nonzero().squeeze(1)
        if self.merge is not None and len(keys):
            a = boundary(step.student.whole("x").at(ends), state.own)
            b = boundary(step.teacher.whole("x").at(last_of(its_chunk)), state.teachers)
            may_end = self.may_end(step.batch, state) if self.unbiased else (b.exp() > self.merge) | last_chunks(ends)
            merged = merged_chunks(may_end.to(b), torch.ones_like(may_end), threshold=0.5)
            kept, most = last_of(merged[None])[0], int(merged.max()) + 1
            own = chunk_log_probabilities(own, merged, most) + a[kept]
            its = chunk_log_probabilities(its, merged, most) + b[kept]
            rows = rows[kept]
        settings: dict[str, Any] = {"compare": self.compare, "tau": self.tau, "alpha": self.alpha, "eps": self.eps}
        far = chunk_divergence(own, its, **settings)
        where = "merged" if self.unbiased else "chunks"
        return {"alm": Term(far.new_zeros(step.rows).index_put((rows,), far), where=where)}


@dataclass(frozen=True)
class ChunkStates(Objective):
    """The squared distance of the student's state at the end of each chunk to the teacher's, over the mean square of
    the teacher's in the batch, the mean over chunks and channels (Minixhofer et al. 2025, ALM, its alm_latents; they
    found it to help only where the student is made of the teacher).

    layer: a path in both models, or (student's, teacher's). scale: the mean square of each "channel", the authors'
    default, or of "all". project: learn a linear map of the student's states, which equally wide ones can go without.
    """

    couples: ClassVar[bool] = True  # the mean square

    layer: Layer = ".embedding"
    scale: Literal["channel", "all"] = "channel"
    project: bool = False

    @property
    def reads(self) -> Reads:
        return reads_of(self.layer)

    def init(self, run: Run) -> nn.Module:
        paired(run)
        student, teacher = both(self.layer)
        own, its = run.shape("student", student)[-1], run.shape("teacher", teacher)[-1]
        if own != its and not self.project:
            raise SettingError(f"the student's states have {own} channels, the teacher's {its}: give project=True")
        return nn.Linear(own, its) if self.project else nn.Identity()

    def loss(self, step: Step, state: Any) -> Terms:
        ends, its_ends = step.batch.masks["chunks"], last_of(step.batch.inputs["teacher.chunk"])
        student, teacher = both(self.layer)
        own = state(step.student.whole("x").at(ends)[student])
        its = wide(step.teacher.whole("x").at(its_ends)[teacher])
        size = its.square().mean(0)
        far = ((wide(own) - its).square() / ((size if self.scale == "channel" else size.mean()) + 1e-8)).mean(-1)
        rows = step.mask("chunks").nonzero()[:, 0]
        return {"chunk_states": Term(far.new_zeros(step.rows).index_put((rows,), far), where="chunks")}


@dataclass(frozen=True)
class ULD(Objective):
    """`uld` of the i-th token of a text in the one tokenization and the i-th in the other, whatever they are, as far as
    both go (Boizard et al. 2024, arXiv:2402.12030); the mean over these tokens, the authors' over each text's first."""

    tau: float = 1.0

    def init(self, run: Run) -> nn.Module:
        paired(run)
        return nn.Module()

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        batch.masks["met"] = self.met(batch)[0].roll(1, 1)  # at the token itself, as masks are
        return batch

    def met(self, batch: Batch) -> list[Tensor]:
        """Where the i-th tokens are predicted that both have: (b, n) and (b, m) bool."""
        places = [given(batch.of(role).positions) for role in ("student", "teacher")]
        least = torch.minimum(*(each.sum(1, keepdim=True) for each in places))
        return [each & (each.cumsum(1) <= least) for each in places]

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = (
            player("x").logits[met[player.batch.positions]]
            for player, met in zip((step.student, step.teacher), self.met(step.batch), strict=True)
        )
        rows = step.mask("met").nonzero()[:, 0]
        far = uld(student, teacher, tau=self.tau)
        return {"uld": Term(far.new_zeros(step.rows).index_put((rows,), far), where="met")}


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


def ends_of(x: Any, ends: Tensor) -> Tensor:
    """(k, 2) the student's and the teacher's last token of each chunk."""
    return torch.stack([x["input_ids"][ends], x["teacher.input_ids"][last_of(x["teacher.chunk"])]], 1)


def last_chunks(ends: Tensor) -> Tensor:
    """(k,) True at the last of each text's chunks, of their ends (b, n)."""
    return last_of(ends.nonzero()[:, 0][None])[0]


def log_probabilities(player: Player, chunk: Tensor, chunks: int) -> Tensor:
    """(b chunks,) of each chunk of a batch, to one of the models."""
    batch = player.batch
    log_p = -cross_entropy(player("x").logits, batch.row_labels)  # type: ignore[arg-type]
    number = chunk + chunks * torch.arange(len(chunk), device=chunk.device)[:, None]
    number = batch.row_of(torch.where(chunk == NONE, NONE, number))
    return chunk_log_probabilities(log_p, number, chunks * len(chunk))


def new_word(piece: Piece) -> bool:
    """Does a token start one? Special tokens do, and what begins with a space, a tab or a new line."""
    return isinstance(piece, str) or (piece is not None and piece[:1] in (b" ", b"\t", b"\n"))


def boundary(output: Output, starts: Tensor) -> Tensor:
    """(k,) log probability that a token which starts a word comes next."""
    log_p: Tensor = output.logits.log_softmax(-1)[:, starts].logsumexp(-1)
    return log_p.clamp(max=0.0)
