"""Objectives that choose which examples, or which teachers, to learn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.data import Batch, given
from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import probabilities
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.selection import Level, adversarial_sampling, draw, llkd_weights, margin_gain
from limbeck.signals import EMBEDDING
from limbeck.similarity import parc, similarity_weights
from limbeck.step import Merged, Step, ask
from limbeck.targets import one_hot
from limbeck.teachers import only

if TYPE_CHECKING:
    from limbeck.run import Run


class Levels(nn.Module):
    """How sure the teacher and how unsure the student have been, on average."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name, start in (("sure", 1 / classes), ("unsure", math.log(classes))):
            self.register_buffer(name, torch.tensor(start))
            self.register_buffer(f"{name}_classes", torch.full((classes,), start))

    def level(self, name: str) -> Level:
        return Level(getattr(self, name), getattr(self, f"{name}_classes"))

    def follow(self, name: str, score: Tensor, label: Tensor, momentum: float) -> None:
        for old, new in zip(self.level(name), self.level(name).after(score, label, momentum), strict=True):
            old.copy_(new)


@dataclass(frozen=True)
class LLKD(Objective):
    """Cross-entropy with the teacher's class where the teacher is surer and the student less sure than usual for that
    class, weighted by both (Li et al. 2024, arXiv:2411.08028); labels are not looked at.

    momentum: of the averages that the thresholds are. Known of the paper are the two signals, thresholds per class that
    move, and the weighted loss; all else is our reading, after FreeMatch: see `selection.Level` and `llkd_weights`. The
    averages start as if nobody knew anything (1 / classes, log classes) and include the batch at hand; the sum is
    divided by the number of the selected. With several micro-batches each takes thresholds and number of its own.

    The student's entropy is that of its forward in training, with its dropout and batch statistics.
    """

    couples: ClassVar[bool] = True

    momentum: float

    def init(self, run: Run) -> nn.Module:
        return Levels(run.shape("teacher", ".logits")[-1])

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        confidence, label = probabilities(step.teacher("x").logits).max(-1)
        uncertainty = cross_entropy(logits.detach(), probabilities(logits.detach()))
        step.keep(confidence=confidence, uncertainty=uncertainty, label=label)
        weight, selected = llkd_weights(
            confidence,
            uncertainty,
            label,
            sure=state.level("sure").after(confidence, label, self.momentum),
            unsure=state.level("unsure").after(uncertainty, label, self.momentum),
        )
        return {"pseudo": weight * cross_entropy(logits, label) * (step.rows / selected.sum().clamp(min=1))}

    def update(self, step: Merged, state: Any) -> None:
        label = step.kept("label")
        state.follow("sure", step.kept("confidence"), label, self.momentum)
        state.follow("unsure", step.kept("uncertainty"), label, self.momentum)


class Asked(nn.Module):
    """What the teacher was asked so far: its probabilities, and where each example's are (-1: nowhere)."""

    answers: Tensor
    place: Tensor
    count: Tensor

    def __init__(self, num_examples: int, questions: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("answers", torch.zeros(questions, classes))
        self.register_buffer("place", torch.full((num_examples,), -1))
        self.register_buffer("count", torch.tensor(0))

    def write(self, index: Tensor, rows: Tensor) -> None:
        places = self.count + torch.arange(len(index), device=self.count.device)
        self.answers[places] = rows.to(self.answers)
        self.place[index] = places
        self.count += len(index)


@dataclass(frozen=True)
class RAD(Objective):
    """Cross-entropy with the labels, and with the probabilities of a teacher that is asked about few of the unlabelled
    examples: `queries` in each of `rounds`, drawn so that they teach much even if the teacher errs where it hurts most
    (Baykal et al. 2023, arXiv:2210.01213; `selection.adversarial_sampling`).

    wrong: share of the pool that the teacher gets wrong: 1 minus its accuracy on labels kept aside. rho: how much a
    wrong answer hurts, as a share of what a right one helps; 1 is our reading of the paper.

    The rounds come at equal distances: the first part of the run has the labels only. Deviations: the student goes on
    after each round and is not trained anew; answers are of the view "x" as it was when asked; a support smaller than
    a round is filled with the next largest gains. One mean over labelled and asked examples. The others of a batch are
    run for nothing: a small `Run(unlabelled=...)` helps.
    """

    queries: int
    rounds: int
    wrong: float
    rho: float = 1.0

    def init(self, run: Run) -> nn.Module:
        given(run.train_data.y)
        only(run.teachers)
        return Asked(run.num_examples, self.queries * self.rounds, run.shape("teacher", ".logits")[-1])

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        batch.masks["answered"] = (step.y != UNLABELLED) | (state.place[step.index] >= 0)
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        logits, place = step.student("x").logits, state.place[step.index]
        asked = (place >= 0).unsqueeze(1)
        truth = one_hot(step.y, logits.shape[-1], logits.dtype)
        target = torch.where(asked, state.answers[place.clamp(min=0)].to(truth), truth)
        return {"ce": Term(cross_entropy(logits, target), where="answered")}

    def update(self, step: Merged, state: Any) -> None:
        due = (step.clock.step + 1) * (self.rounds + 1) // step.clock.steps
        if int(state.count) >= self.queries * min(due, self.rounds):
            return
        run = step.run
        free = (given(run.train_data.y) == UNLABELLED) & (state.place.cpu() < 0)
        pool = (free & run.train_data.masks.get("valid", free)).nonzero().squeeze(1)
        if not len(pool):
            return
        gains = margin_gain(run.predict(run.students[0], run.train_data)[pool])
        p = adversarial_sampling(gains, wrong=round(self.wrong * len(pool)), rho=self.rho)
        chosen = pool[draw(p, self.queries, spare=gains, generator=run.rng)].split(256)
        for batch in map(run.on_device, run.train_data.batches(chosen, seed=run.seed, epoch=step.epoch)):
            state.write(batch.index, ask(only(run.teachers), batch, "x").logits.softmax(-1))


class SourceHeads(nn.Module):
    """A linear layer for each source that counts, and how much it does."""

    def __init__(self, width: int, classes: list[int], shares: Tensor) -> None:
        super().__init__()
        self.used = [(i, float(share)) for i, share in enumerate(shares) if share > 0]
        self.heads = nn.ModuleList(nn.Linear(width, classes[i]) for i, _ in self.used)


@dataclass(frozen=True)
class SimilarTasks(Objective):
    """Soft cross-entropy with what models of other tasks say in their own classes, through a head for each on the
    student's embedding, each counting by how well its embedding fits this task's labels (Borup et al. 2023,
    arXiv:2304.12314). The heads are not part of the student that is deployed.

    power: shares are PARC similarities to this power (DistillWeighted); 0 is all alike, None the most similar alone
    (DistillNearest). probe: how many labelled examples the similarity is found from, equally many per class.
    CKA and the paper's other similarities are not here.
    """

    power: float | None
    probe: int = 500

    @property
    def reads(self) -> Reads:
        return frozenset({("student", EMBEDDING), ("teacher", EMBEDDING)})

    @torch.no_grad()
    def init(self, run: Run) -> nn.Module:
        if not run.teachers:
            only(run.teachers)
        ids = balanced(given(run.train_data.y), self.probe)
        batches = [run.on_device(batch) for batch in run.train_data.batches(ids.split(256), seed=run.seed)]
        y = torch.cat([batch.y for batch in batches if batch.y is not None])
        similarities, classes = [], []
        for teacher in run.teachers:
            outputs = [ask(teacher, batch, "x") for batch in batches]
            features = torch.cat([output.embedding.flatten(1) for output in outputs])
            similarities.append(parc(features, y))
            classes.append(outputs[0].logits.shape[-1])
        shares = similarity_weights(torch.tensor(similarities), power=self.power)
        with torch.enable_grad():
            return SourceHeads(run.shape("student", EMBEDDING)[-1], classes, shares)

    def loss(self, step: Step, state: Any) -> Terms:
        embedding = step.student("x").embedding
        return {
            f"source/{i}": share * cross_entropy(head(embedding), step.teachers[i]("x").logits.softmax(-1))
            for (i, share), head in zip(state.used, state.heads, strict=True)
        }


def balanced(y: Tensor | None, n: int) -> Tensor:
    """Ids of about n labelled examples, equally many of each class: the first ones."""
    classes = [] if y is None else [(y == c).nonzero().squeeze(1) for c in y.unique() if c != UNLABELLED]
    if len(classes) < 2:
        raise SettingError("the similarity of tasks is judged by labels of at least two classes; there are none such")
    each = max(1, min(n // len(classes), *map(len, classes)))
    return torch.cat([ids[:each] for ids in classes])
