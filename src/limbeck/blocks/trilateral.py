"""How much to trust the teacher and how much the label, learned on held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam

from limbeck.blocks.preparation import class_means
from limbeck.data import UNLABELLED, Batch, given, pick
from limbeck.data.draws import uniform
from limbeck.errors import SettingError
from limbeck.losses.inputs import probabilities
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.procedures.lookahead import lookahead_gradient
from limbeck.step import Step, ask
from limbeck.targets import one_hot
from limbeck.teachers import only

if TYPE_CHECKING:
    from limbeck.run import Run


def trilateral(
    student: Float[Tensor, "b c"],
    teacher: Float[Tensor, "b c"],
    truth: Float[Tensor, "b c"],
    centre: Float[Tensor, "b c"],
    *,
    edge: Literal["square", "difference"] = "square",
) -> Float[Tensor, "b nine_c"]:
    """The points S, T, G and the teacher's mean prediction of the class, and five edges between them, by class (Hu et
    al. 2024, TGeo-KD, section 3; squared differences as in a third party's code, the paper speaks of relations)."""
    edges = torch.cat([centre - student, truth - student, teacher - student, teacher - truth, centre - truth], -1)
    return torch.cat([student, teacher, truth, centre, edges.square() if edge == "square" else edges], -1)


class Ratio(nn.Module):
    """An MLP from the geometry to a number in (0, 1), with its own Adam.

    All is in buffers: they are moved and saved with the rest, but the run's optimiser does not train them.
    """

    centres: Tensor
    names: ClassVar = ("weights", "means", "squares", "steps")

    def __init__(self, centres: Tensor, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("centres", centres)
        sizes = (9 * len(centres), *hidden, 1)
        layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
        weights = [p.detach() for layer in layers for p in layer.parameters()]
        zeros = [torch.zeros_like(weight) for weight in weights]
        for name, tensors in zip(self.names, (weights, zeros, zeros, [torch.zeros(()) for _ in weights]), strict=True):
            for i, tensor in enumerate(tensors):
                self.register_buffer(f"{name}{i}", tensor.clone())
        self.count = len(weights)

    def all(self, name: str) -> list[Tensor]:
        return [self.get_buffer(f"{name}{i}") for i in range(self.count)]

    def forward(self, geometry: Tensor, weights: list[Tensor] | None = None) -> Tensor:
        weights = weights or self.all("weights")
        x = geometry.to(weights[0].dtype)
        for i, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
            x = F.linear(F.leaky_relu(x) if i else x, weight, bias)
        return x.squeeze(-1).sigmoid()

    def descend(self, gradients: list[Tensor], *, lr: float, weight_decay: float) -> None:
        weights, means, squares, steps = map(self.all, self.names)
        adam(
            weights,
            gradients,
            means,
            squares,
            [],
            steps,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )


@dataclass(frozen=True)
class TrilateralRatio(Objective):
    """alpha tau**2 KL to the teacher and (1 - alpha) CE with the label, over labelled examples; alpha, per example, is
    read off the geometry of what student, teacher and label say, by an MLP that is trained for the cross-entropy of
    held-out examples one step of the student ahead (Hu et al. 2024, TGeo-KD).

    held_out: this share of the labelled examples, always the same ones, is left to the MLP; objectives added to this
        one do not see it either. Micro-batches and ranks look ahead each on its own rows. every: steps between looks.
    edge: see `trilateral`. hidden: layers of the MLP. lr, weight_decay: of its Adam; a third party's 0.1 and 0.05 make
        alpha the same for all examples on digits, as the decay outweighs the small gradients through a step.

    The step ahead is one of plain gradient descent with the learning rate of the moment, in training mode, on copies
    of batch normalisation's averages; a part with a single row is not looked at. It needs `compile=False`, as
    torch.compile has no second derivatives.
    """

    couples: ClassVar[bool] = True

    tau: float
    held_out: float = 0.1
    edge: Literal["square", "difference"] = "square"
    hidden: tuple[int, ...] = (32, 16)
    lr: float = 0.003
    weight_decay: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise SettingError(f"held_out is a share in (0, 1); got {self.held_out}")

    def init(self, run: Run) -> nn.Module:
        teacher = only(run.teachers)

        def answer(batch: Batch) -> tuple[Tensor, Tensor]:
            y = torch.where(self.inner(run, batch), given(batch.y), UNLABELLED)
            return ask(teacher, batch, "x").logits.detach(), y

        return Ratio(class_means(run, torch.arange(run.num_examples).split(512), answer), self.hidden)

    def inner(self, run: Run, batch: Batch) -> Tensor:
        """(rows,) bool: not held out."""
        return uniform(run.seed, batch.index, epoch=0, stream="held out", n=1)[:, 0] >= self.held_out

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        labelled, inner = step.mask("labelled"), self.inner(step.run, batch)
        kept = labelled & inner
        if step.run.steps_done % self.every == 0:
            self.look_ahead(step, kept.nonzero()[:, 0], (labelled & ~inner).nonzero()[:, 0], state)
        # a single row is too little for batch normalisation: then all go along, and only the mask counts
        rows = kept.nonzero()[:, 0] if kept.sum() > 1 else torch.arange(len(batch), device=kept.device)
        masks = {name: mask[rows] for name, mask in {**batch.masks, "inner": kept}.items()}
        return batch.like(pick(batch.inputs, rows), step.y[rows], batch.index[rows], masks)

    def look_ahead(self, step: Step, inner: Tensor, outer: Tensor, state: Ratio) -> None:
        """One step of the MLP."""
        fabric, enough = step.run.fabric, min(len(inner), len(outer)) > 1
        weights = [weight.clone().requires_grad_() for weight in state.all("weights")]
        gradients = [torch.zeros_like(weight) for weight in weights]
        if enough:
            x, y, teacher = step.view("x"), step.y, step.teacher("x").logits

            def distil(net: Callable[[Any], Any]) -> Tensor:
                terms = self.terms(net(pick(x, inner)).logits, teacher[inner], y[inner], state, weights)
                return torch.stack([term.mean() for term in terms.values()]).sum()

            def judge(net: Callable[[Any], Any]) -> Tensor:
                return cross_entropy(net(pick(x, outer)).logits, y[outer]).mean()

            lr = step.at(step.run.optimizer.lr)
            gradients = list(lookahead_gradient(step.run.students[0], distil, judge, weights, lr=lr))
        looked = torch.tensor(float(enough), device=step.index.device)
        if fabric.world_size > 1:
            looked, *gradients = (
                cast(Tensor, fabric.all_reduce(each, reduce_op="sum")) for each in (looked, *gradients)
            )
        if looked > 0:
            state.descend([each / looked for each in gradients], lr=self.lr, weight_decay=self.weight_decay)

    def terms(
        self, student: Tensor, teacher: Tensor, y: Tensor, state: Ratio, weights: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        truth = one_hot(y, student.shape[-1])
        p, q = probabilities(student.detach()), probabilities(teacher)
        centre = state.centres[y.clamp(min=0)]
        alpha = state(trilateral(p, q, truth, centre, edge=self.edge), weights)
        return {
            "kl": alpha * kl(student, teacher, tau=self.tau),
            "ce": (1 - alpha) * cross_entropy(student, y),
        }

    def loss(self, step: Step, state: Any) -> Terms:
        terms = self.terms(step.student("x").logits, step.teacher("x").logits, step.y, state)
        return {name: Term(term, where="inner") for name, term in terms.items()}
