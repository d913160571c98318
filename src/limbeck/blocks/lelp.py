"""Pseudo-subclasses by linear directions of the teacher's embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError, ShapeError
from limbeck.heads import Subclasses, graft
from limbeck.losses.inputs import wide
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Objective, Reads, Terms
from limbeck.signals import EMBEDDING, Net
from limbeck.step import Step, ask
from limbeck.targets import subclass_split
from limbeck.teachers import only

if TYPE_CHECKING:
    from limbeck.run import Run


class Directions(nn.Module):
    """The scores of all subclasses as one linear map of the teacher's embedding: (b, d) -> (b, classes, parts)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, path: str) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.path = path

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.einsum("bd,csd->bcs", embedding.to(self.weight), self.weight) + self.bias


@dataclass(frozen=True)
class LELP(Objective):
    """Each class is split into pseudo-subclasses by random directions in the space of its main components in the
    teacher's embedding; one cross-entropy over all subclasses, whose sum per class is the student's answer (Loo et al.
    2024, arXiv:2409.20449). The student gets `subclasses` logits per class in place of its last linear layer.

    beta: sharpness of the split. tau: temperature of the classes. null_space: leave out the directions that the
    teacher's logits show already, for which a record does not do. sample: how many examples the directions are found
    from, on the view "x".

    The paper tunes the first three. Our reading: scores are in units of their deviation within the class, and a class's
    examples are those with its label, or without one those that the teacher puts there; a class with no more than
    `subclasses` of them takes the directions of all. The size of the sample is ours.
    """

    subclasses: int
    beta: float
    tau: float
    null_space: bool = True
    sample: int = 10_000

    @property
    def reads(self) -> Reads:
        return frozenset({("teacher", EMBEDDING)})

    def init(self, run: Run) -> nn.Module:
        classes = run.shape("student", ".logits")[-1]
        generator = torch.Generator().manual_seed(run.seed)
        h, label = embeddings(run, self.sample, generator)
        head = last_weight(only(run.teachers)) if self.null_space else None
        weight, bias = class_directions(h, label, classes, self.subclasses, hidden_from=head, generator=generator)
        net = run.students[0]
        path, there = graft(net, Subclasses, lambda linear: Subclasses(linear, parts=self.subclasses))
        if there.parts != self.subclasses:
            raise SettingError(
                f"the student has a head of {there.parts} subclasses per class, and the method {self.subclasses}"
            )
        net.read([f"{path}.linear"], owner="student")
        return Directions(weight.to(h.dtype), bias.to(h.dtype), path)

    def loss(self, step: Step, state: Any) -> Terms:
        teacher = step.teacher("x")
        target = subclass_split(wide(teacher.logits) / self.tau, state(teacher.embedding), beta=self.beta)
        return {"subclasses": cross_entropy(step.student("x")[f"{state.path}.linear"], target.flatten(1))}


def class_directions(
    h: Tensor, label: Tensor, classes: int, parts: int, *, hidden_from: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weight (classes, parts, d) and bias (classes, parts) of the scores of embeddings h (n, d), label (n,): per class
    the first `parts` principal components, rotated at random so that all vary alike, in units of their deviation.

    hidden_from: (k, d), a linear map; the directions are those that it does not see.
    """
    h = h.double().cpu()
    if hidden_from is not None:
        w = hidden_from.double().cpu()
        h = h - h @ (torch.linalg.pinv(w) @ w)
    if parts > min(h.shape):
        raise SettingError(
            f"{len(h)} embeddings of width {h.shape[1]} have no {parts} directions: take fewer subclasses"
        )
    weights, biases = [], []
    for c in range(classes):
        own = h[label == c]
        own = own if len(own) > parts else h
        mean = own.mean(0)
        components = torch.linalg.svd(own - mean, full_matrices=False).Vh[:parts]
        rotation = torch.linalg.qr(torch.randn(parts, parts, dtype=h.dtype, generator=generator)).Q
        directions = rotation @ components
        deviation = ((own - mean) @ directions.T).std(0, correction=0)
        # what does not vary, but for rounding, says nothing
        directions = directions / deviation.where(deviation > 1e-9 * own.abs().max(), torch.inf).unsqueeze(1)
        if hidden_from is not None:
            directions = directions - directions @ (torch.linalg.pinv(w) @ w)
        weights.append(directions)
        biases.append(-directions @ mean)
    return torch.stack(weights), torch.stack(biases)


@torch.no_grad()
def embeddings(run: Run, sample: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The teacher's embeddings (n, d) of some training examples, and their classes (n,): the label, or its guess."""
    pool = run.train_data.masks.get("valid", torch.ones(run.num_examples, dtype=torch.bool)).nonzero().squeeze(1)
    ids = pool[torch.randperm(len(pool), generator=generator)[:sample].sort().values].split(256)
    rows, labels = [], []
    for batch in map(run.on_device, run.train_data.batches(ids, seed=run.seed)):
        output = ask(only(run.teachers), batch, "x")
        if output.embedding.dim() != 2:
            raise ShapeError(f"directions need embeddings (b, d); the teacher's are {tuple(output.embedding.shape)}")
        guess = output.logits.argmax(-1)
        rows.append(output.embedding)
        labels.append(guess if batch.y is None else torch.where(batch.y == UNLABELLED, guess, batch.y))
    return torch.cat(rows).cpu(), torch.cat(labels).cpu()


def last_weight(teacher: Any) -> Tensor:
    """The weight (classes, d) that makes a model's logits of its embedding."""
    net = getattr(teacher, "net", None)
    last = net.last("teacher") if isinstance(net, Net) else None
    if not isinstance(last, nn.Linear):
        raise SettingError("the teacher has no linear last layer to look at: set null_space=False")
    return last.weight.detach()
