"""Objectives in which a model's clean pass teaches its noisy ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from limbeck.data import Batch, given
from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.evaluate import evaluating
from limbeck.losses.logit import kl
from limbeck.losses.noise import adaptive_noise, noisy_kl, signal_to_noise
from limbeck.objective import Objective, Term, Terms
from limbeck.signals import Net
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run

VIEWS = ("noisy/1", "noisy/2")


class Noise(nn.Module):
    """Noise on the outputs of a net's layers, `with noise.on():`; `chosen` (layers,) bool says of which of them."""

    chosen: Tensor

    def __init__(self, net: Net, layers: tuple[str, ...], std: float, beta: float) -> None:
        super().__init__()
        self.register_buffer("chosen", torch.ones(len(layers), dtype=torch.bool))
        self.std, self.beta = std, beta
        self.active = False
        self.tokens: Tensor | None = None
        self.seen: dict[int, Tensor] | None = None  # outputs, if anybody wants them
        for i, name in enumerate(layers):
            net.layer(name, "student").register_forward_hook(partial(self.add, i))

    def add(self, i: int, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if self.active and bool(self.chosen[i]):
            rows = hidden.reshape(len(hidden), -1, hidden.shape[-1])
            noisy = adaptive_noise(rows, torch.randn_like(rows), std=self.std, beta=self.beta, mask=self.tokens)
            hidden = noisy.view_as(hidden)
        if self.seen is not None:
            self.seen[i] = hidden
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    @contextmanager
    def on(self, tokens: Tensor | None = None) -> Iterator[None]:
        """tokens (b, n) bool: those that are no padding; None: all."""
        self.active, self.tokens = True, tokens
        yield
        self.active, self.tokens = False, None

    @torch.no_grad()
    def ratios(self, net: Net, x: Any, passes: int = 10) -> Tensor:
        """(layers,): each one's signal-to-noise ratio, the sum over some passes with all of them perturbed."""
        with evaluating(net):
            self.seen = {}
            net(x)
            clean, total = dict(self.seen), torch.zeros(len(self.chosen))
            for _ in range(passes):
                with self.on():
                    net(x)
                total += torch.stack([signal_to_noise(clean[i], self.seen[i]).cpu() for i in range(len(total))])
            self.seen = None
        return total


@dataclass(frozen=True)
class NoisySelf(Objective):
    """The student's clean pass teaches two passes with noise on some layers, and one of these the other, over the
    labelled rows (Khadangi et al. 2025, NoiseFiT).

    layers: paths whose outputs (b, n, width) or (b, width) may be perturbed; of these, before training, the `most` with
    the largest (or lowest) signal-to-noise ratio on the first batch. None: all. std, beta: see `losses.adaptive_noise`.
    soft, consistency: weights of the two terms. tau: of the clean pass. detach: no gradient through the clean pass; the
    authors let it through.

    Deviations: the rows are those of the cross-entropy, not moved by one against it; `std` counts once, not three
    times. A token's noise depends on the spread of all tokens of its micro-batch, so the method couples examples.
    """

    couples: ClassVar[bool] = True

    layers: tuple[str, ...]
    std: float
    most: int | None = 3
    which: Literal["largest", "lowest"] = "largest"
    beta: float = 0.1
    soft: float = 0.5
    consistency: float = 0.1
    tau: float = 1.0
    detach: bool = False

    def __post_init__(self) -> None:
        if not self.layers or self.std <= 0 or self.which not in ("largest", "lowest"):
            raise SettingError(
                f"NoisySelf takes one layer at least, std > 0 and which='largest' or 'lowest'; got {self!r}"
            )

    def init(self, run: Run) -> nn.Module:
        net = run.students[0]
        noise = Noise(net, self.layers, self.std, self.beta)
        if self.most is not None and self.most < len(self.layers):
            batch = run.on_device(next(run.train_data.batches(run.plan(0)[:1], seed=run.seed)))
            ratios = noise.ratios(net, batch.view("x"))
            noise.chosen.fill_(False)[ratios.topk(self.most, largest=self.which == "largest").indices] = True
        return noise

    def prepare(self, batch: Batch, step: Step, state: Any) -> Batch:
        for name in VIEWS:
            batch.made[name] = batch.view("x")
        return batch

    def loss(self, step: Step, state: Any) -> Terms:
        clean = step.student("x").logits
        with state.on(None if step.batch.positions is None else before_the_last_label(given(step.batch.y))):
            first, second = (step.student(name).logits for name in VIEWS)
        soft = noisy_kl(clean, torch.stack([first, second]), tau=self.tau, detach=self.detach)
        return {
            "soft": Term(self.soft * soft, where="labelled"),
            "consistency": Term(self.consistency * kl(first, second), where="labelled"),
        }


def before_the_last_label(y: Tensor) -> Tensor:
    """(b, n) bool: all but the padding of labels (b, n)."""
    return (y != UNLABELLED).flip(1).cumsum(1).flip(1) > 0
