"""Objectives that change what the teacher says before the student hears it, or who of the student hears it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from limbeck.data import Batch
from limbeck.errors import SettingError
from limbeck.heads import DualHead, Place, graft
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.inputs import probabilities
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Reads, Term, Terms
from limbeck.signals import EMBEDDING
from limbeck.step import Step
from limbeck.targets import route_by_confidence

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class FerKD(Objective):
    """Cross-entropy with the teacher's probabilities of the very crop, sorted by its confidence: a crop below `low` or
    above `high` is left out of the mean, one below `middle` gets its label, smoothed by `eps` (Shen 2023).

    of: the confidence is the teacher's largest probability, or the true class's. selfmix: a of the Beta(a, a) by which
    a part of the view "x" is replaced with that of the view "other", a second crop of the same image, and their
    targets are mixed by area; an example counts if both crops do. None: no mixing.

    The thresholds, eps and which confidence are the paper's are not known to us. Unlike there, a crop is drawn anew
    in each epoch rather than `num_crops` of one image in a batch, and its target comes from the teacher at hand; to
    store the largest probabilities only, as FKD does, see `targets.recover`. An example without a label keeps the soft
    one. FKD's mixing of two images is not here.
    """

    low: float
    middle: float
    high: float
    eps: float
    of: Literal["max", "true"] = "max"
    selfmix: float | None = None

    def route(self, step: Step, view: str) -> tuple[Tensor, Tensor]:
        soft = probabilities(step.teacher(view).logits)
        return route_by_confidence(
            soft, step.y, low=self.low, middle=self.middle, high=self.high, eps=self.eps, of=self.of
        )

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        target, counts = self.route(step, "x")
        if self.selfmix is not None:
            other, too = self.route(step, "other")
            u = step.uniform("selfmix", 3)
            mixed, share = paste(batch.view("x"), batch.view("other"), beta_quantile(u[:, 0], self.selfmix), u[:, 1:])
            batch.made["selfmix"] = mixed
            target, counts = torch.lerp(other, target, share.to(target).unsqueeze(1)), counts & too
        step.keep(**{repr(self): target})
        batch.masks[repr(self)] = counts  # so that what is left out is not in the denominator either
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x" if self.selfmix is None else "selfmix").logits
        return {"soft": Term(cross_entropy(logits, step.kept[repr(self)]), where=repr(self))}


def beta_quantile(u: Tensor, a: float) -> Tensor:
    """The numbers below which Beta(a, a) is with probabilities u (b,)."""
    from scipy.special import betaincinv  # type: ignore[import-untyped]  # slow to import

    return torch.from_numpy(betaincinv(a, a, u.double().cpu().numpy())).to(u)


def paste(x: Tensor, other: Tensor, share: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Images (b, c, h, w) with a box of `other` in each, and which share of x is left, (b,) (Yun et al. 2019, CutMix).

    share: (b,) of x to keep, before the box is cut at the border. centre: (b, 2) in [0, 1), of the box.
    """
    inside = []
    for length, place in zip(x.shape[2:], centre.unbind(1), strict=True):
        half = ((1 - share).sqrt() * length / 2).unsqueeze(1)
        pixel = torch.arange(length, device=x.device) + 0.5
        inside.append((pixel - length * place.unsqueeze(1)).abs() < half)
    box = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return torch.where(box.unsqueeze(1), other, x), 1 - box.float().mean((1, 2))


@dataclass(frozen=True)
class DHO(Objective):
    """Two heads in place of the student's last linear layer: one learns the labels, the other the teacher, so that they
    meet in the backbone only; the student's answer is a mixture of both (Kang et al. 2025).

    weight CE(ce, y) + (1 - weight) (tau**2 KL over the labelled + tau**2 KL over the unlabelled), each a mean of its
    own and the latter two added, as in the authors' train_others.py. `Run(unlabelled=...)` gives every batch both.

    alpha, beta: of the mixture, see `heads.DualHead`; its `choose` finds them on validation data. Both heads start
    like any linear layer: text embeddings as initial weights, and the scaled unit features that go with them, are not
    here.
    """

    tau: float = 2.0
    weight: float = 0.5
    alpha: float = 0.5
    beta: float = 0.5

    def init(self, run: Run) -> nn.Module:
        net = run.students[0]
        path, head = graft(net, DualHead, DualHead)
        head.alpha.fill_(self.alpha)
        head.beta.fill_(self.beta)
        net.read([f"{path}.ce", f"{path}.kd"], owner="student")
        return Place(path)

    def loss(self, step: Step, state: Any) -> Terms:
        student = step.student("x")
        taught = (1 - self.weight) * kl(student[f"{state.path}.kd"], step.teacher("x").logits, tau=self.tau)
        return {
            "ce": Term(self.weight * cross_entropy(student[f"{state.path}.ce"], step.y), where="labelled"),
            "kl/labelled": Term(taught, where="labelled"),
            "kl/unlabelled": Term(taught, where="unlabelled"),
        }


@dataclass(frozen=True)
class Aspects(Objective):
    """A second linear layer on the student's embedding learns the teacher's answers to yes-or-no questions: binary
    cross-entropy, averaged over the questions (Lee et al. 2025). It is not part of the student that is deployed.

    The teacher is `answers.Answers` of a language model that was shown the images, or a model with a logit per
    question, such as one of attributes.
    """

    @property
    def reads(self) -> Reads:
        return frozenset({("student", EMBEDDING)})

    def init(self, run: Run) -> nn.Module:
        return nn.Linear(run.shape("student", EMBEDDING)[-1], run.shape("teacher", ".logits")[-1])

    def loss(self, step: Step, state: Any) -> Terms:
        return {"aspects": binary_cross_entropy(state(step.student("x").embedding), step.teacher("x").logits.sigmoid())}


@dataclass(frozen=True)
class HotCE(Objective):
    """Cross-entropy of softmax(logits / tau) with the labels: a model trained so is too sure of itself when asked
    without tau (Papernot et al. 2016, defensive distillation). Its gradient is about 1 / tau as large."""

    tau: float

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise SettingError(f"a temperature is positive; got tau={self.tau}")

    def loss(self, step: Step, state: Any) -> Terms:
        return {"ce": Term(cross_entropy(step.student("x").logits / self.tau, step.y), where="labelled")}
