"""Objectives on what transformers say within: states of tokens and attention; on masked tokens; on scores of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.blocks.feature import Layer, both, reads_of
from limbeck.blocks.noise import before_the_last_label
from limbeck.data import given
from limbeck.data.draws import uniform
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.feature import masked_mse, mse
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.signals import same_shape
from limbeck.step import Player, Step, ask

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run

#: Batches whose states are decomposed.
SAMPLE = 8

# --- states and attention -----------------------------------------------------------------------------------------


def tokens_of(batch: Batch) -> Tensor | None:
    """(b, n) bool: all but padding, by the inputs' attention mask, else by the labels of tokens; None: all."""
    x = batch.view("x")
    if isinstance(x, Mapping) and "attention_mask" in x:
        mask: Tensor = x["attention_mask"]
        return mask.bool()
    return None if batch.positions is None else before_the_last_label(given(batch.y))


@dataclass(frozen=True)
class HiddenMSE(Objective):
    """The student's states of tokens against the teacher's: mean squared difference over all tokens but padding, summed
    over the layers.

    layers: paths in both models or (student's, teacher's) pairs, of layers that give (b, n, width); ".hidden.0" is the
        embeddings of a transformers model or GPT, ".hidden.3" the output of its third layer.
    bridge: "learnt": a linear map from the student's width to the teacher's for each layer; "svd": where the widths
        differ, from the teacher's to the student's, the first right singular vectors of the teacher's states in the
        first batches, not centred and fixed (Ansell et al. 2023, BiStil).
    """

    layers: tuple[Layer, ...]
    bridge: Literal["learnt", "svd"] = "learnt"

    @property
    def reads(self) -> Reads:
        return reads_of(*self.layers)

    def init(self, run: Run) -> nn.Module:
        ours = [run.shape("student", both(layer)[0])[-1] for layer in self.layers]
        theirs = [run.shape("teacher", both(layer)[1])[-1] for layer in self.layers]
        if self.bridge == "learnt":
            return nn.ModuleList(map(nn.Linear, ours, theirs))
        return nn.ParameterList(self.directions(run, ours))

    @torch.no_grad()
    def directions(self, run: Run, widths: list[int]) -> list[nn.Parameter]:
        """(teacher's width, student's width) for each layer."""
        seen: list[list[Tensor]] = [[] for _ in self.layers]
        for batch in run.train_data.batches(run.plan(0)[:SAMPLE], seed=run.seed):
            batch = run.on_device(batch)
            output, tokens = ask(run.teachers[0], batch, "x"), tokens_of(batch)
            for states, layer in zip(seen, self.layers, strict=True):
                found = output[both(layer)[1]]
                states.append(found.flatten(0, -2) if tokens is None else found[tokens])
        maps = []
        for states, width in zip(seen, widths, strict=True):
            matrix = torch.cat(states)
            if matrix.shape[1] < width:
                raise ShapeError(
                    f"the student is wider ({width}) than the teacher ({matrix.shape[1]}): bridge='learnt'"
                )
            v = torch.linalg.eigh(matrix.double().mT @ matrix.double()).eigenvectors.flip(1)[:, :width]
            maps.append(nn.Parameter(v.to(matrix.dtype), requires_grad=False))
        return maps

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher, tokens = step.student.whole("x"), step.teacher.whole("x"), tokens_of(step.batch)
        terms = {}
        for layer, mapped in zip(self.layers, state, strict=True):
            own, other = both(layer)
            ours, theirs = student[own], teacher[other]
            if self.bridge == "learnt":
                ours = mapped(ours)
            elif ours.shape[-1] != theirs.shape[-1]:
                theirs = theirs @ mapped.to(theirs.dtype)
            counted = theirs.new_ones(theirs.shape[:-1], dtype=torch.bool) if tokens is None else tokens
            value = masked_mse(ours, theirs, counted[..., None])
            terms[f"hidden/{own.removeprefix('.hidden.')}"] = Term(value, where="sequences")
        return terms


@dataclass(frozen=True)
class AttentionMSE(Objective):
    """The student's attention probabilities (b, heads, n, n) against the teacher's: mean squared difference over all
    entries but those of padding, summed over the layers.

    layers: as in HiddenMSE; ".attention.0" is the first layer's. Both models need as many heads.
    nonzero: over those entries only where the teacher's probability is not exactly 0 (Ansell et al. 2023, BiStil): what
        a causal or padding mask hides.
    """

    layers: tuple[Layer, ...]
    nonzero: bool = False

    @property
    def reads(self) -> Reads:
        return reads_of(*self.layers)

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher, tokens = step.student.whole("x"), step.teacher.whole("x"), tokens_of(step.batch)
        terms = {}
        for layer in self.layers:
            own, other = both(layer)
            ours, theirs = student[own], teacher[other]
            mend = "leave attention out where the numbers of heads differ, or compare other layers"
            same_shape("attention", ours, theirs, mend)
            counted = torch.ones_like(theirs, dtype=torch.bool)
            if tokens is not None:
                counted &= tokens[:, None, :, None] & tokens[:, None, None, :]
            if self.nonzero:
                counted &= theirs != 0
            value = masked_mse(ours, theirs, counted)
            terms[f"attention/{own.removeprefix('.attention.')}"] = Term(value, where="sequences")
        return terms


# --- masked tokens ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskedLM(Objective):
    """Predict hidden tokens from both sides (Devlin et al. 2019, BERT): of the labelled tokens a share is chosen anew
    in each step; 80 % of these become `mask_token`, 10 % any token, 10 % stay.

    As everywhere, a token is predicted at the place before it; an encoder that predicts a token at its own place is
    handed over with logits moved by one: Net(model, forward=...). Without the next-sentence prediction of BERT.
    """

    mask_token: int
    share: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(f"the share of hidden tokens is in (0, 1]; got {self.share}")

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        x = batch.view("x")
        if batch.predicted is None or batch.vocabulary is None or "input_ids" not in x:
            raise SettingError("tokens can be masked in sequences of them: data with input_ids and labels (n, length)")
        ids, n = x["input_ids"], x["input_ids"].shape[1]
        u = uniform(step.run.seed, batch.index, epoch=step.run.steps_done, stream="masked", n=3 * n)
        chosen, how, other = u.view(-1, 3, n).unbind(1)
        hidden = (chosen < self.share) & batch.predicted
        anything = (other * batch.vocabulary).long()
        filled = torch.where(how < 0.8, self.mask_token, torch.where(how < 0.9, anything, ids))
        batch.made["masked"] = {**x, "input_ids": torch.where(hidden, filled, ids)}
        batch.masks["masked"] = hidden
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        return {"masked": Term(cross_entropy(step.student("masked").logits, step.y), where="masked")}


@dataclass(frozen=True)
class MaskedCE(Objective):
    """Cross-entropy with the labels over the rows of one of the data's masks."""

    where: str

    def loss(self, step: Step, state: Any) -> Terms:
        return {"ce": Term(cross_entropy(step.student("x").logits, step.y), where=self.where)}


# --- scores of pairs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScores(Objective):
    """Learn the scores of pairs from models of the other kind (Liu et al. 2021, Trans-Encoder): a bi-encoder's score is
    a cosine, a cross-encoder's a logit; both are given as logits (b, 1).

    student: "cross": binary cross-entropy of its logits with the teachers' cosines, which are not clamped;
        "bi": squared difference of its cosines and the sigmoid of the teachers' logits.

    Of several teachers the mean score counts.
    """

    student: Literal["bi", "cross"]

    def __post_init__(self) -> None:
        if self.student not in ("bi", "cross"):
            raise SettingError(f"the student of PairScores is 'bi' or 'cross'; got {self.student!r}")

    def loss(self, step: Step, state: Any) -> Terms:
        players: tuple[Player, ...] = step.teachers or (step.teacher,)  # the latter says that there is none
        own, said = step.student("x").logits, torch.stack([each("x").logits for each in players])
        if self.student == "bi":
            return {"scores": mse(own, said.sigmoid().mean(0))}
        if float(said.abs().max()) > 1 + 1e-3:
            raise ShapeError(
                f"a bi-encoder's scores are cosines, and this teacher's go to {float(said.abs().max()):.3g}: give "
                f"models.encoders.BiEncoder, or PairScores('bi') for a cross-encoder as teacher"
            )
        return {"scores": binary_cross_entropy(own, said.mean(0))}
