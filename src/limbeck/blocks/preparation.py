"""Objectives that make a better teacher of a trained model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.data import Batch, given
from limbeck.errors import SettingError
from limbeck.losses.divergence import centroids, class_mass, cmi
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Merged, Step
from limbeck.teachers import Frozen

if TYPE_CHECKING:
    from limbeck.run import Run


class Centroids(nn.Module):
    """Each class's mean distribution, (classes, classes)."""

    q: Tensor

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.register_buffer("q", q)


@dataclass(frozen=True)
class CMI(Objective):
    """KL between an example's distribution and its class's mean one, over the labelled examples: conditional mutual
    information (Ye et al. 2024, MCMI). To raise it, give a negative weight.

    The means are taken once before training, over the first epoch's batches in train mode, as in the authors' code.
    momentum: share of them that is kept in each step, the rest being the batch's means of the classes it has. 1, the
        authors', keeps them as they are. Theirs, written but not called, has 0.9999 and 8 extra examples per class.
    """

    momentum: float = 1.0

    def init(self, run: Run) -> nn.Module:
        model = Frozen(copy.deepcopy(run.students[0]), training=True)
        return Centroids(class_means(run, run.plan(0), lambda batch: (model(batch.view("x")).logits, given(batch.y))))

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        if self.momentum < 1:
            step.keep(cmi=logits)
        return {"cmi": Term(cmi(logits, step.y, state.q), where="labelled")}

    def update(self, step: Merged, state: Any) -> None:
        if self.momentum < 1:
            mass = class_mass(step.kept("cmi"), step.y)
            moved = torch.lerp(centroids(mass), state.q, self.momentum)
            state.q.copy_(torch.where(mass.sum(1, keepdim=True) > 0, moved, state.q))


def class_means(
    run: Run, ids: Sequence[Tensor], answer: Callable[[Batch], tuple[Tensor, Tensor]]
) -> Float[Tensor, "c c"]:
    """Each class's mean distribution over the training examples `ids`; `answer` gives a batch's logits and labels."""
    if run.num_classes is None:
        raise SettingError("class means need the number of classes: Data(x, y, classes=...)")
    mass = torch.zeros(run.num_classes, run.num_classes, device=run.fabric.device)
    for batch in run.train_data.batches(ids, seed=run.seed):
        mass += class_mass(*answer(run.on_device(batch)))
    return centroids(mass)
