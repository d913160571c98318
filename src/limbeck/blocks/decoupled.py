"""Objectives that treat the label's class apart from the others."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import ShapeError
from limbeck.losses.decoupled import dkd, ofa
from limbeck.models.vit import TransformerBlock
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class DKD(Objective):
    """KL of the label's class against all others, times alpha, and KL among the others, times beta; over the labelled
    examples (Zhao et al. 2022)."""

    alpha: float = 1.0
    beta: float = 8.0
    tau: float = 4.0

    def loss(self, step: Step, state: Any) -> Terms:
        pair = step.student("x").logits, step.teacher("x").logits
        return {"dkd": Term(dkd(*pair, step.y, alpha=self.alpha, beta=self.beta, tau=self.tau), where="labelled")}


@dataclass(frozen=True)
class Enhanced(Objective):
    """Cross-entropy with the teacher's distribution in which the label's class is enhanced, over the labelled examples
    (Hao et al. 2023, OFA-KD; see `ofa`)."""

    eps: float
    tau: float = 1.0
    variant: Literal["code", "paper"] = "code"

    def loss(self, step: Step, state: Any) -> Terms:
        logits, teacher = step.student("x").logits, step.teacher("x").logits
        return {"ofa": Term(ofa(logits, teacher, step.y, eps=self.eps, tau=self.tau, variant=self.variant), "labelled")}


@dataclass(frozen=True)
class EnhancedExits(Objective):
    """As Enhanced, for a branch of its own after each of the student's stages, which maps the stage's output to class
    logits; the branches are not part of the student (Hao et al. 2023).

    layers: the ends of all the student's stages, in order. A branch shrinks its maps as many times as stages follow;
    see `branch`. Deviation: layers have torch's initial weights.
    """

    couples: ClassVar[bool] = True  # the branches' batch normalisation sees its micro-batch

    layers: tuple[str, ...]
    eps: float
    tau: float = 1.0
    variant: Literal["code", "paper"] = "code"

    @property
    def reads(self) -> Reads:
        stages = frozenset(("student", layer) for layer in self.layers)
        return stages | {("student", EMBEDDING), ("teacher", EMBEDDING)}

    def init(self, run: Run) -> nn.Module:
        student, teacher = (run.shape(role, EMBEDDING)[-1] for role in ("student", "teacher"))
        assert run.num_classes is not None
        return nn.ModuleList(
            branch(
                run.shape("student", layer), follow=follow, student=student, teacher=teacher, classes=run.num_classes
            )
            for follow, layer in enumerate(reversed(self.layers))
        )[::-1]

    def loss(self, step: Step, state: Any) -> Terms:
        student, teacher, terms = step.student("x"), step.teacher("x").logits, {}
        for layer, own in zip(self.layers, state, strict=True):
            rows = ofa(own(student[layer]), teacher, step.y, eps=self.eps, tau=self.tau, variant=self.variant)
            terms[f"ofa/{layer}"] = Term(rows, where="labelled")
        return terms


def branch(shape: tuple[int, ...], *, follow: int, student: int, teacher: int, classes: int) -> nn.Module:
    """From features of this shape (batch first), after which `follow` stages come, to class logits.

    Maps (b, c, h, w): one separable shrinking block for each stage that follows, or a 1 x 1 convolution, and the mean.
    Tokens (b, n, d): merging of 2 x 2 patches down to 7 x 7, transformer blocks, all d wide (the authors': as wide as
    the student's embedding, which in a plain transformer is d), then the class token (which is there if n - 1 is a
    square and n is not) or the mean. Vectors (b, d), which the authors do not have: one hidden layer.
    student, teacher: widths of the embeddings.
    """
    width = max(student, teacher)
    if len(shape) == 4:
        widths = [shape[1] * 2**i for i in range(follow)] + [width]
        body: list[nn.Module] = [separable(*each) for each in pairwise(widths)]
        body = body or [nn.Conv2d(shape[1], width, 1)]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    if len(shape) == 3:
        return Tokens(shape[1], shape[2], blocks=max(follow, 1), classes=classes)
    if len(shape) == 2:
        return nn.Sequential(nn.Linear(shape[1], width), nn.ReLU(), nn.Linear(width, classes))
    raise ShapeError(f"no branch from features of shape {shape} to classes: tap maps, tokens or vectors")


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Two depthwise separable convolutions, the first with stride 2: (b, inputs, h, w) -> (b, outputs, h/2, w/2)."""
    layers: list[nn.Module] = []
    for stride, width in ((2, inputs), (1, outputs)):
        layers += [
            nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class Merge(nn.Module):
    """Each 2 x 2 patches become one: (b, h, h, d) -> (b, h/2, h/2, d); an odd last row and column are dropped."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.LayerNorm(4 * d), nn.Linear(4 * d, d, bias=False), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        merged: Tensor = self.map(even.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3))
        return merged


class Tokens(nn.Module):
    """(b, n, d) tokens of a square of patches, maybe after a class token -> (b, classes)."""

    def __init__(self, n: int, d: int, *, blocks: int, classes: int) -> None:
        super().__init__()
        side = int(n**0.5)
        self.extra = int(side**2 != n)
        if side**2 + self.extra != n:
            raise ShapeError(f"{n} tokens are no square of patches, with or without a class token")
        merges = []
        while side >= 14:
            merges.append(Merge(d))
            side //= 2
        self.merge = nn.Sequential(*merges)
        heads = 4 if d % 4 == 0 else 1
        self.blocks = nn.Sequential(*(TransformerBlock(d, heads) for _ in range(blocks)))
        self.head = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        first, patches = x[:, : self.extra], x[:, self.extra :]
        if len(self.merge):
            side = int(patches.shape[1] ** 0.5)
            patches = self.merge(patches.unflatten(1, (side, side))).flatten(1, 2)
        x = self.blocks(torch.cat([first, patches], 1))
        logits: Tensor = self.head(x[:, 0] if self.extra else x.mean(1))
        return logits
