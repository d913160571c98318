"""Objectives that withstand wrong labels or moved inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError, SignalError
from limbeck.losses.robust import Scores, aldr, aldr_lambda, comp_sum, ldr, margin_shift, smooth_adv_comp_sum
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Merged, Step
from limbeck.teachers import Bank

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.run import Run


@dataclass(frozen=True)
class CompSum(Objective):
    """The comp-sum loss of the labels' probabilities: cross-entropy at tau = 1, robust above it (Mao et al. 2023)."""

    tau: float

    def loss(self, step: Step, state: Any) -> Terms:
        return {"comp_sum": Term(comp_sum(step.student("x").logits, step.y, tau=self.tau), where="labelled")}


@dataclass(frozen=True)
class AdvCompSum(Objective):
    """The comp-sum loss plus nu times how far the worst input within `radius` moves the differences of the logits
    (Mao et al. 2023, Adv-Comp-Sum). The view "adversarial" holds that input.

    radius: largest change of an input's number, in the unit of the view "x". limits: what such a number can be; None:
    anything. The worst input is searched from a random place in `steps` steps of a quarter of the radius along the
    gradient's sign, with the student in eval mode (our reading: projected ascent as in TRADES; only the largest change
    is bounded, where the paper has any p-norm). Both inputs take their own forward, one after the other.
    """

    radius: float
    tau: float = 1.0
    rho: float = 1.0
    nu: float = 1.0
    steps: int = 10
    limits: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.steps < 1:
            raise SettingError(f"radius and steps are positive; got {self.radius} and {self.steps}")

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        x, y, net = batch.view("x"), step.y, step.run.students[0]
        if not isinstance(x, Tensor):
            raise SignalError(f"only a tensor can be moved; the view 'x' is a {type(x).__name__}")
        start = step.uniform("adversarial", x[0].numel()).view_as(x).to(x)
        moved = self.nearby(x, x + self.radius * (2 * start - 1))
        training = net.training
        net.eval()
        before = net(x).logits
        for _ in range(self.steps):
            with torch.enable_grad():
                moved.requires_grad_()
                (slope,) = torch.autograd.grad(margin_shift(before, net(moved).logits, y).sum(), moved)
            moved = self.nearby(x, moved.detach() + self.radius / 4 * slope.sign())
        net.train(training)
        batch.made["adversarial"] = moved
        return batch

    def nearby(self, x: Tensor, moved: Tensor) -> Tensor:
        moved = torch.clamp(moved, x - self.radius, x + self.radius)
        return moved if self.limits is None else moved.clamp(*self.limits)

    def loss(self, step: Step, state: Any) -> Terms:
        logits, moved = step.student("x").logits, step.student("adversarial").logits
        value = smooth_adv_comp_sum(logits, moved, step.y, tau=self.tau, rho=self.rho, nu=self.nu)
        return {"comp_sum": Term(value, where="labelled")}


@dataclass(frozen=True)
class LDR(Objective):
    """The worst case over a distribution on the classes, kept near uniform by lam (Zhu et al. 2023, LDR-KL)."""

    lam: float = 10.0
    margin: float = 0.1
    scores: Scores = "softplus"

    def loss(self, step: Step, state: Any) -> Terms:
        value = ldr(step.student("x").logits, step.y, lam=self.lam, margin=self.margin, scores=self.scores)
        return {"ldr": Term(value, where="labelled")}


@dataclass(frozen=True)
class ALDR(Objective):
    """As LDR, with a lam for each training example, lower where the student is sure; it starts at lam0 and is
    remembered by the example's id (Zhu et al. 2023, ALDR-KL)."""

    lam0: float = 10.0
    alpha: float = 2.0
    margin: float = 0.1
    scores: Scores = "l1"

    def init(self, run: Run) -> nn.Module:
        return Bank(run.num_examples, 1)

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        before = state.read(step.index, default=torch.full((step.rows, 1), self.lam0, device=logits.device))
        lam = aldr_lambda(logits, before.squeeze(1), lam0=self.lam0, alpha=self.alpha, scores=self.scores)
        step.keep(aldr=lam.unsqueeze(1))
        value = aldr(logits, step.y, lam, lam0=self.lam0, alpha=self.alpha, margin=self.margin, scores=self.scores)
        return {"aldr": Term(value, where="labelled")}

    def update(self, step: Merged, state: Any) -> None:
        state.write(step.index, step.kept("aldr"))
