"""Objectives of language models: texts that the student writes itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data import UNLABELLED, Batch, given
from limbeck.data.draws import uniform
from limbeck.errors import DataError, SettingError
from limbeck.generate import generate
from limbeck.losses.divergence import reverse_kl
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Composite, Objective, Terms, as_terms
from limbeck.step import NOT_RECORDED, Merged, Step
from limbeck.teachers import only

if TYPE_CHECKING:
    from limbeck.run import Run

STREAM = "own texts"  # of draws


@dataclass(frozen=True)
class OnPolicy(Composite):
    """An objective on texts of the student's own: at this rate a batch's completions are written anew by the student
    as it is now, and are then what the labels, the teacher and the loss are about (Agarwal et al. 2024, GKD).

    rate: in [0, 1]; one draw decides for each step. In a sum all parts see the written texts. What is written depends
        on the run's seed, the example, the step and the models alone: it is the same however a batch is split, and
        after a resume.
    temperature: of the sampling only; the loss has its own.
    prompt: tokens of a text that are kept at least, for texts without a prompt of their own; in pairs of prompt and
        completion the prompt is kept whole.
    new: tokens to write at most; None: as many as the batch has room for.
    teacher: its share of the probabilities that the tokens are drawn from, in [0, 1]; above 0 it generates too.
    keep: a mask of the data's examples that are left as they are; its tokens then have the mask "given", all others
        "own" (see `Among`).
    """

    objective: Objective
    rate: float = 0.5
    temperature: float = 1.0
    prompt: int = 1
    new: int | None = None
    teacher: float = 0.0
    keep: str | None = None

    def __post_init__(self) -> None:
        shares = 0 <= self.rate <= 1 and 0 <= self.teacher <= 1
        if not shares or self.prompt < 1 or (self.new is not None and self.new < 1):
            raise SettingError(
                f"OnPolicy takes rate in [0, 1], prompt and new of at least 1, teacher in [0, 1]; got {self.rate}, "
                f"{self.prompt}, {self.new}, {self.teacher}"
            )

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        if self.decision(step) < self.rate:
            batch = self.written(batch, step)
        return super().prepare(self.told_apart(batch), step, state)

    def decision(self, step: Step | Merged) -> float:
        """A number in [0, 1) for each step, the same on all ranks."""
        return float(uniform(step.run.seed, torch.zeros(1).long(), epoch=step.run.steps_done, stream=STREAM, n=1))

    def told_apart(self, batch: Batch) -> Batch:
        if self.keep is not None:
            kept = batch.mask(self.keep)[:, None].expand_as(given(batch.y))
            batch.masks |= {"given": kept, "own": ~kept}
        return batch

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
        teacher = only(step.run.teachers) if self.teacher > 0 else None
        if hasattr(teacher, "lookup"):
            raise SettingError(NOT_RECORDED)
        ids, lengths = generate(
            step.run.students[0],
            batch.inputs["input_ids"],
            first,
            new=new,
            temperature=self.temperature,
            end=end,
            vocabulary=batch.vocabulary,
            draws=draws[:, :new],
            other=getattr(teacher, "net", teacher),
            share=self.teacher,
        )
        ids, place = ids[:, :n], torch.arange(n, device=ids.device)
        said = (place >= first[:, None]) & (place < lengths[:, None])
        masks = {name: mask for name, mask in batch.masks.items() if mask.shape == batch.index.shape}
        ids = torch.where(place < lengths[:, None], ids, 0 if end is None else end)
        labels = torch.where(said, ids, UNLABELLED)
        if self.keep is not None:
            kept = batch.mask(self.keep)[:, None]
            ids, labels = torch.where(kept, batch.inputs["input_ids"], ids), torch.where(kept, y, labels)
        return as_written(batch, ids, labels, masks)

    def loss(self, step: Step, state: Any) -> Terms:
        return self.objective.loss(step, state[0])


def as_written(batch: Batch, ids: Tensor, y: Tensor, masks: dict[str, Tensor]) -> Batch:
    """These texts in the place of a batch's."""
    written = batch.like({"input_ids": ids}, y, batch.index, masks)
    written.recorded = False
    return written


@dataclass(frozen=True)
class OffPolicy(OnPolicy):
    """`OnPolicy` with a share of own texts that follows the validation loss, and texts that are used again (Ko et al.
    2024, DistiLLM, and its finetune.py).

    rate: the share at first. rise: what it grows by, up to 1, after an epoch whose nll on the run's test data is
        `slack` nats above that at its last growth, or at the start; needs Run(test=texts to validate on). 0: never.
    replay: how many of the last own texts are kept. Once as many are written, of the steps on own texts a share that
        grows from 0 to 1 over the run takes kept ones, each example one at random, and writes none. 0: none are kept.
        Another's text has no masks of the example in whose place it stands.

    Deviations: the authors draw kept texts without repetition; they look at the loss whenever they evaluate.
    """

    rise: float = 0.0
    slack: float = 0.1
    replay: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rise < 0 or self.slack < 0 or self.replay < 0 or (self.replay > 0 and self.keep is not None):
            raise SettingError(
                f"OffPolicy takes rise, slack and replay of at least 0, and replay=0 with keep; got {self.rise}, "
                f"{self.slack}, {self.replay} and keep={self.keep!r}"
            )

    def init(self, run: Run) -> nn.Module:
        texts, data = nn.Module(), run.train_data
        if self.rise > 0:
            if run.test_data is None:
                raise SettingError(
                    "the share of own texts rises with the validation loss: give Run(test=...), or rise=0"
                )
            texts.register_buffer("nll", torch.tensor(run.evaluate()["nll"]))
        if self.replay > 0:
            if data.y is None or not data.of_tokens:
                raise SettingError(
                    "own texts that are kept are all of one length: give data of tokens in memory, "
                    "limbeck.data.text.Tokens, say, or replay=0"
                )
            for name in ("ids", "y"):
                texts.register_buffer(name, torch.full((self.replay, data.y.shape[1]), UNLABELLED))
        texts.register_buffer("count", torch.tensor(0))  # of those ever written
        return nn.ModuleList([self.objective.init(run), texts])

    def share(self, step: Step | Merged, texts: Any) -> float:
        share = self.rate
        if self.rise > 0:
            first, _ = step.run.method.span(step.epoch, step.run.epochs)
            before, *losses = [float(texts.nll), *(row["nll"] for row in step.run.history)][first:]
            for nll in losses:
                if nll >= before + self.slack:
                    share, before = min(share + self.rise, 1.0), nll
        return share

    def source(self, step: Step | Merged, texts: Any) -> Literal["data", "student", "texts"]:
        """Where this step's completions are from."""
        share, decision = self.share(step, texts), self.decision(step)
        if decision >= share:
            return "data"
        anew = decision < share * (1 - (step.clock.step + 1) / step.clock.steps)
        return "student" if anew or int(texts.count) < self.replay or self.replay == 0 else "texts"

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        source, texts = self.source(step, state[1]), state[1]
        if source == "student":
            batch = self.written(batch, step)
        elif source == "texts":
            u = uniform(step.run.seed, batch.index, epoch=step.run.steps_done, stream=f"{STREAM}/kept", n=1)
            which = (u[:, 0] * self.replay).long()
            batch = as_written(batch, texts.ids[which], texts.y[which], {})
        return Composite.prepare(self, self.told_apart(batch), step, state[:1])

    def update(self, step: Merged, state: Any) -> None:
        texts = state[1]
        if self.replay > 0 and self.source(step, texts) == "student":
            ids, y = step.rows(lambda part: part.batch.inputs["input_ids"]), step.rows(lambda part: given(part.batch.y))
            ids, y = ids[-self.replay :], y[-self.replay :]
            places = (texts.count + torch.arange(len(ids), device=ids.device)) % self.replay
            texts.ids[places], texts.y[places] = ids, y
            texts.count += len(ids)
        super().update(step, state[:1])


@dataclass(frozen=True)
class Among(Composite):
    """An objective of all rows, of those in a mask only: `where` is its name."""

    objective: Objective
    where: str

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def loss(self, step: Step, state: Any) -> Terms:
        terms = as_terms(self.objective.loss(step, state[0]))
        if any(term.where not in (None, "labelled") for term in terms.values()):
            raise SettingError(f"{self.objective!r} has a mask of its own already")
        return {name: replace(term, where=self.where) for name, term in terms.items()}


@dataclass(frozen=True)
class RewardedKL(Objective):
    """KL(student || teacher) of whole texts, as a reward (Gu et al. 2024, MiniLLM, equations 3 to 7): the divergence of
    each distribution, and a policy gradient for the tokens that follow, w_t (KL(q || p)_t - R_t log q(y_t)),
    R_t = 1 / (T - t) sum_{u > t} log p(y_u) - log q(y_u), clipped to [-clip, clip].

    For texts that the student wrote: `OnPolicy(RewardedKL(), rate=1.0)`. teacher: its share of the probabilities that
    the tokens were drawn from, at temperature 1, as in `OnPolicy`; w_t is q(y_t) over those, a constant.

    Equation 6 divides by T - t - 1, one less than the tokens it sums; w_t is the paper's approximation of a product
    over all tokens so far. The authors' code has no w_t with the divergence, clips the reward of each token at 100,
    puts the token's own into R_t, standardises R over the batch, and takes four epochs over the same texts, the ratios
    to their old probabilities clipped as in PPO; here a text is used for one step.
    """

    clip: float = 10.0
    teacher: float = 0.0

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher = step.student("x").logits, step.teacher("x").logits
        log_q, log_p = (-cross_entropy(logits, step.y) for logits in (student, teacher))
        gain = (log_p - log_q).detach()
        later = rewards(gain, step).clamp(-self.clip, self.clip)
        w = 1 / (1 - self.teacher + self.teacher * gain.clamp(max=80.0).exp())
        return {"reverse_kl": w * reverse_kl(student, teacher), "reward": -w * later * log_q}


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
