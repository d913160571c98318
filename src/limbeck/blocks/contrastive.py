"""Objectives that tell an example's own representation from others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.contrastive import contrast, sampled_scores
from limbeck.objective import Objective, Reads, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Merged, Step

if TYPE_CHECKING:
    from limbeck.run import Run


class ContrastState(nn.Module):
    """Two projections to the unit sphere, a bank of each side's projections, and the classes to draw from."""

    bank_s: Tensor
    bank_t: Tensor
    log_z: Tensor
    labels: Tensor
    order: Tensor
    counts: Tensor
    starts: Tensor

    def __init__(self, student: int, teacher: int, dim: int, labels: Tensor) -> None:
        super().__init__()
        self.project_s, self.project_t = nn.Linear(student, dim), nn.Linear(teacher, dim)
        bound = (3 / dim) ** 0.5
        for name in ("bank_s", "bank_t"):
            self.register_buffer(name, torch.empty(len(labels), dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), torch.nan))
        # Examples sorted by class, so that "one of another class" is one draw and one shift past a block of ids.
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels + 1, minlength=int(labels.max()) + 2)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)

    def others(self, index: Tensor, u: Tensor) -> Tensor:
        """(b, k) ids of examples of other classes, one per uniform number u (b, k)."""
        block = self.labels[index].unsqueeze(1) + 1
        own, start = self.counts[block], self.starts[block]
        place = (u * (len(self.bank_s) - own)).long()
        return self.order[place + own * (place >= start)]


@dataclass(frozen=True)
class CRD(Objective):
    """Contrastive representation distillation (Tian et al. 2020, and RepDistiller's crd/): the student's embedding must
    tell the teacher's embedding of the same example from those of `negatives` examples of other classes, and the
    other way round, by noise-contrastive estimation against banks of past embeddings.

    negatives: K; 16384 in the paper. dim: width of the projections. temperature: tau. momentum: of the banks.

    Deviations: negatives are drawn with replacement (the authors: without, where a class has enough); a data set
    without labels, or an unlabelled example, draws from all other labels. The normalisers are, as there, constants
    estimated on the first batch; with several micro-batches each uses its own estimate in that first step, so the
    method couples examples.
    """

    couples: ClassVar[bool] = True

    negatives: int = 16384
    dim: int = 128
    temperature: float = 0.07
    momentum: float = 0.5

    @property
    def reads(self) -> Reads:
        return frozenset({("student", EMBEDDING), ("teacher", EMBEDDING)})

    def init(self, run: Run) -> nn.Module:
        y = run.train_data.y
        # Without labels every example is a class of its own.
        labels = torch.arange(run.num_examples) if y is None or bool((y == UNLABELLED).all()) else y
        if bool((labels == labels[0]).all()):
            raise SettingError(
                "CRD contrasts with examples of other classes, and all examples of the data have one class"
            )
        student, teacher = (run.shape(role, EMBEDDING)[-1] for role in ("student", "teacher"))
        return ContrastState(student, teacher, self.dim, labels)

    def loss(self, step: Step, state: Any) -> Terms:
        own_s = F.normalize(state.project_s(step.student("x").embedding))
        own_t = F.normalize(state.project_t(step.teacher("x").embedding))
        others = state.others(step.index, step.uniform("crd", self.negatives))
        rows = torch.cat([step.index.unsqueeze(1), others], 1)
        terms, log_z = {}, []
        for side, (own, bank) in enumerate([(own_s, state.bank_t), (own_t, state.bank_s)]):
            scores = sampled_scores(own, bank, rows) / self.temperature
            # The authors' Z: the batch's mean of exp(score) times the number of examples, once.
            first = scores.detach().logsumexp((0, 1)) - torch.tensor(scores.numel() / step.run.num_examples).log()
            log_z.append(torch.where(state.log_z[side].isnan(), first, state.log_z[side]))
            name = "contrast/teacher" if side else "contrast/student"
            terms[name] = contrast(scores - log_z[side], noise=step.run.num_examples)
        step.keep(student=own_s, teacher=own_t, log_z=torch.stack(log_z).expand(step.rows, 2))
        return terms

    def update(self, step: Merged, state: Any) -> None:
        index = step.index
        for bank, name in ((state.bank_s, "student"), (state.bank_t, "teacher")):
            bank[index] = F.normalize(self.momentum * bank[index] + (1 - self.momentum) * step.kept(name).to(bank))
        state.log_z.copy_(torch.where(state.log_z.isnan(), step.kept("log_z").mean(0).to(state.log_z), state.log_z))
