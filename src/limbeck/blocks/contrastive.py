"""Objectives that tell an example's own representation from others'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.data.draws import uniform
from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.contrastive import contrast, sampled_scores
from limbeck.objective import Objective, Reads, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Merged, Step

if TYPE_CHECKING:
    from limbeck.run import Run

#: A step's negatives come from this many times `negatives` examples, so that their scores are one small product.
POOL = 2


class ContrastState(nn.Module):
    """Two projections to the unit sphere, a bank of each side's projections, and the classes to draw from."""

    bank_s: Tensor
    bank_t: Tensor
    log_z: Tensor
    labels: Tensor

    def __init__(self, student: int, teacher: int, dim: int, labels: Tensor) -> None:
        super().__init__()
        self.project_s, self.project_t = nn.Linear(student, dim), nn.Linear(teacher, dim)
        bound = (3 / dim) ** 0.5
        for name in ("bank_s", "bank_t"):
            self.register_buffer(name, torch.empty(len(labels), dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), torch.nan))
        self.register_buffer("labels", labels, persistent=False)

    def others(self, index: Tensor, u: Tensor, pool: Tensor | None = None) -> Tensor:
        """(b, k) places in the pool of examples of other classes, one per uniform number u (b, k).

        pool: (m,) ids; None: all examples, so that places are ids.
        """
        labels = self.labels if pool is None else self.labels[pool]
        own = self.labels[index].unsqueeze(1)
        # Sorted by class, "one of another class" is one draw and one shift past a block.
        ordered, order = labels.sort(stable=True)
        start, end = torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
        place = spread(u, len(labels) - (end - start))
        return order[place + (end - start) * (place >= start)]


def spread(u: Tensor, n: int | Tensor) -> Tensor:
    """Places in [0, n), ascending, by uniform numbers u (..., k): one in each of k equal parts, so none comes twice
    where there are k."""
    part = torch.arange(u.shape[-1], device=u.device)
    return ((part + u) * (n / u.shape[-1])).long().clamp(max=n - 1)  # part + u may round up


@dataclass(frozen=True)
class CRD(Objective):
    """Contrastive representation distillation (Tian et al. 2020, and RepDistiller's crd/): the student's embedding must
    tell the teacher's embedding of the same example from those of `negatives` examples of other classes, and the
    other way round, by noise-contrastive estimation against banks of past embeddings.

    negatives: K; 16384 in the paper. dim: width of the projections. temperature: tau. momentum: of the banks.

    Deviations: all draws of a step are from a pool of 2 K examples that is new in each step (the authors': from the
    whole data). It has one example out of each of 2 K equal parts of the data, and an example draws one out of each of
    K equal parts of the pool's other classes, so none comes twice and each is as likely as any other. Measured for
    K = 1024 of 60,000, the draws add 1.08 times the noise of independent ones to the gradient, 3% of what the batch
    adds. An example without a label is a class of its own. The normalisers are, as there, constants estimated on the
    first batch; with several micro-batches each uses its own estimate in that first step, so the method couples
    examples.
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
        y, ids = run.train_data.y, torch.arange(run.num_examples)
        # An example without a label is a class of its own.
        labels = ids if y is None else torch.where(y == UNLABELLED, y.max() + 1 + ids, y)
        if bool((labels == labels[0]).all()):
            raise SettingError(
                "CRD contrasts with examples of other classes, and all examples of the data have one class"
            )
        student, teacher = (run.shape(role, EMBEDDING)[-1] for role in ("student", "teacher"))
        return ContrastState(student, teacher, self.dim, labels)

    def loss(self, step: Step, state: Any) -> Terms:
        own_s = F.normalize(state.project_s(step.student("x").embedding))
        own_t = F.normalize(state.project_t(step.teacher("x").embedding))
        m = min(POOL * self.negatives, step.run.num_examples)
        u = uniform(step.run.seed, step.index.new_zeros(1), epoch=step.run.steps_done, stream="crd/pool", n=m)
        pool = spread(u[0], step.run.num_examples)
        others = state.others(step.index, step.uniform("crd", self.negatives), pool)
        ids = torch.cat([step.index, pool])
        columns = torch.cat([torch.arange(step.rows, device=ids.device).unsqueeze(1), step.rows + others], 1)
        terms, log_z = {}, []
        for side, (own, bank) in enumerate([(own_s, state.bank_t), (own_t, state.bank_s)]):
            scores = sampled_scores(own / self.temperature, bank.index_select(0, ids), columns)
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
