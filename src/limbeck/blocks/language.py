"""Objectives of language models: texts that the student writes itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data import UNLABELLED, Batch, given
from limbeck.data.draws import uniform
from limbeck.errors import DataError, SettingError
from limbeck.generate import generate
from limbeck.losses.divergence import reverse_kl
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Composite, Objective, Terms
from limbeck.step import Step

STREAM = "own texts"  # of draws


@dataclass(frozen=True)
class OnPolicy(Composite):
    """An objective on texts of the student's own: at this rate a batch's completions are written anew by the student
    as it is now, and are then what the labels, the teacher and the loss are about (Agarwal et al. 2024, GKD).

    rate: in [0, 1]; one draw decides for each step. In a sum all parts see the written texts. What is written depends
        on the run's seed, the example, the step and the student alone: it is the same however a batch is split, and
        after a resume.
    temperature: of the sampling only; the loss has its own.
    prompt: tokens of a text that are kept at least, for texts without a prompt of their own; in pairs of prompt and
        completion the prompt is kept whole.
    new: tokens to write at most; None: as many as the batch has room for.
    """

    objective: Objective
    rate: float = 0.5
    temperature: float = 1.0
    prompt: int = 1
    new: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or self.prompt < 1 or (self.new is not None and self.new < 1):
            raise SettingError(
                f"OnPolicy takes rate in [0, 1], prompt and new of at least 1; got {self.rate}, {self.prompt}, "
                f"{self.new}"
            )

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        decision = uniform(step.run.seed, torch.zeros(1).long(), epoch=step.run.steps_done, stream=STREAM, n=1)
        if float(decision) < self.rate:
            batch = self.written(batch, step)
        return super().prepare(batch, step, state)

    def written(self, batch: Batch, step: Step) -> Batch:
        """The same prompts, with what the student makes of them."""
        if batch.positions is None:
            raise SettingError("the student writes texts: give data of tokens, limbeck.data.text.Tokens, say")
        mask = batch.inputs.get("attention_mask")
        if mask is not None and not bool(mask[:, 0].all()):
            raise DataError("the student goes on behind a text: pad on the right, tokenizer.padding_side = 'right'")
        y, tokenizer = given(batch.y), getattr(step.run.train_data, "tokenizer", None)
        end = None if tokenizer is None else tokenizer.end
        n = y.shape[1]
        first = (y != UNLABELLED).int().argmax(1).clamp(min=min(self.prompt, n - 1))
        new = min(self.new or n, n - int(first.min()))
        draws = uniform(step.run.seed, batch.index, epoch=step.run.steps_done, stream=STREAM, n=n)
        ids, lengths = generate(
            step.run.students[0],
            batch.inputs["input_ids"],
            first,
            new=new,
            temperature=self.temperature,
            end=end,
            vocabulary=batch.vocabulary,
            draws=draws[:, :new],
        )
        ids, place = ids[:, :n], torch.arange(n, device=ids.device)
        said = (place >= first[:, None]) & (place < lengths[:, None])
        masks = {name: mask for name, mask in batch.masks.items() if mask.shape == batch.index.shape}
        written = batch.like(
            {"input_ids": torch.where(place < lengths[:, None], ids, 0 if end is None else end)},
            torch.where(said, ids, UNLABELLED),
            batch.index,
            masks,
        )
        written.recorded = False
        return written

    def loss(self, step: Step, state: Any) -> Terms:
        return self.objective.loss(step, state[0])


@dataclass(frozen=True)
class RewardedKL(Objective):
    """KL(student || teacher) of whole texts, as a reward (Gu et al. 2024, MiniLLM, equations 3 to 6): the divergence of
    each distribution, and a policy gradient for the tokens that follow,
    -R_t log q(y_t), R_t = 1 / (T - t) sum_{u > t} log p(y_u) - log q(y_u), clipped to [-clip, clip].

    For texts that the student wrote: `OnPolicy(RewardedKL(), rate=1.0)`. Unlike the paper's, the texts are the
    student's alone, not of a mixture with the teacher, and are used for one step, so no importance weights are needed.
    """

    clip: float = 10.0

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = step.student("x").logits, step.teacher("x").logits
        log_q, log_p = (-cross_entropy(logits, step.y) for logits in (student, teacher))
        later = rewards((log_p - log_q).detach(), step).clamp(-self.clip, self.clip)
        return {"reverse_kl": reverse_kl(student, teacher), "reward": -later * log_q}


def rewards(gains: Tensor, step: Step) -> Tensor:
    """(rows,) the mean of what the tokens after each one gain, 0 for the last of a text."""
    positions = step.batch.positions
    if positions is None:
        raise SettingError("rewards are of tokens: give data of tokens, limbeck.data.text.Tokens, say")
    spread = torch.zeros(positions.shape, dtype=gains.dtype, device=gains.device)
    spread[positions] = gains
    later = spread.flip(1).cumsum(1).flip(1) - spread
    left = positions.flip(1).cumsum(1).flip(1) - positions.long()
    return (later / left.clamp(min=1))[positions]
