"""Losses of a linear head's logits without the logits: rows are taken tile by tile, forward and backward together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.logit import cross_entropy
from limbeck.signals import Head, finished

#: Rows at least, for fewer write the head's gradient too often, and bytes of logits in float32. A compiled loss makes
#: its intermediate numbers in registers, so its tiles may be larger.
EAGER, COMPILED = (40, 5 << 20), (128, 16 << 20)


@dataclass(frozen=True, eq=False)
class Linear:
    """Logits that are made when they are wanted: head(hidden), of hidden (n, width)."""

    hidden: Tensor
    head: Head

    def __len__(self) -> int:
        return len(self.hidden)

    def __call__(self, rows: slice) -> Tensor:
        return self.head(self.hidden[rows])


#: A teacher's logits: themselves (n, v), made by a head, or by any `rows -> logits`, which may decode a record.
Logits = Tensor | Linear | Callable[[slice], Tensor]


def linear_divergence(
    loss: Callable[..., Tensor],
    student: Linear,
    teacher: Logits | None = None,
    *rows: Tensor,
    weights: Float[Tensor, " n"] | None = None,
    tile: int | None = None,
    **settings: Any,
) -> Float[Tensor, " n"]:
    """`loss(student's logits, teacher's logits, *rows, **settings)`, one number per row, times `weights`. Values and
    gradients are those of the dense computation, but only `tile` rows of logits are there at any time.

    loss: any in which a row sees itself alone: kl, reverse_kl, jsd, skew_kl, taid, cross_entropy, yours.
        `torch.compile(kl)` is faster and smaller. teacher: None, if it takes none; no gradient flows to it.
    rows: further arguments with a row each, such as labels.
    weights: (n,). Give them here, not outside: the gradient is made in the forward pass, for rows that count alike,
        and is made once more, in the backward pass, if they turn out not to.
    tile: rows at a time; None: as many as have 5 MB of logits, at least 40; three times
        as many where the loss is compiled.

    The head's gradient is summed in float32. Memory beside the gradients: some fifteen tiles, three if compiled.
    Raises ShapeError where numbers of rows or classes differ.
    """
    n = len(student)
    lengths = [len(each) for each in (teacher, *rows, weights) if isinstance(each, Tensor | Linear)]
    if any(length != n for length in lengths):
        raise ShapeError(f"the student has {n} rows, what goes with it {lengths}: give one of each for every row")
    if tile is not None and tile < 1:
        raise SettingError(f"tile is at least 1 row; got {tile}")

    def tiled(logits: Tensor, at: slice) -> Tensor:
        others = () if teacher is None else (constant(teacher, at),)
        return loss(logits, *others, *(each[at] for each in rows), **settings)

    hidden, head = student.hidden, student.head
    job = Tiles(tiled, head.scale, head.softcap, tile or fitting(loss, len(head.weight)))
    if weights is None:
        weights = torch.ones(n, device=hidden.device)
    weights = weights.detach().to(torch.promote_types(hidden.dtype, torch.float32))
    result: Tensor = InTiles.apply(hidden, head.weight, head.bias, weights, job)  # type: ignore[no-untyped-call]
    return result


def fitting(loss: Callable[..., Tensor], classes: int) -> int:
    """Rows of a tile."""
    rows, size = COMPILED if hasattr(loss, "_torchdynamo_orig_callable") else EAGER
    return max(rows, size // (4 * classes))


def linear_cross_entropy(
    student: Linear, y: Int[Tensor, " n"] | Float[Tensor, "n v"], *, tile: int | None = None
) -> Float[Tensor, " n"]:
    """`cross_entropy(student's logits, y)` by `linear_divergence`: exact, as Wijmans et al. 2025 (CCE) without its
    filter of small gradients. Rows whose label is UNLABELLED give 0, no gradient, and cost nothing.
    """
    if y.is_floating_point():
        return linear_divergence(cross_entropy, student, y, tile=tile)
    labelled = (y != UNLABELLED).nonzero().squeeze(1)
    found = linear_divergence(
        cross_entropy, Linear(student.hidden[labelled], student.head), None, y[labelled], tile=tile
    )
    return found.new_zeros(len(y)).index_put((labelled,), found)


def constant(teacher: Logits, at: slice) -> Tensor:
    with torch.no_grad():
        logits = teacher[at] if isinstance(teacher, Tensor) else teacher(at)
        return logits.clone() if logits.is_inference() else logits


@dataclass(frozen=True, eq=False)
class Tiles:
    """What a tile of logits is used for."""

    loss: Callable[[Tensor, slice], Tensor]
    scale: float
    softcap: float | None
    rows: int

    def of(self, n: int) -> Iterator[slice]:
        return (slice(start, min(start + self.rows, n)) for start in range(0, n, self.rows))

    def logits(self, products: Tensor) -> Tensor:
        return finished(products, self.scale, self.softcap)

    def values(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor) -> Tensor:
        values = torch.empty_like(weights)
        for at in self.of(len(hidden)):
            values[at] = weights[at] * self.loss(self.logits(F.linear(hidden[at], weight, bias)), at)
        return values

    def gradients(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor, needed: tuple[bool, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The values, and the gradients of their sum with respect to hidden, weight and bias."""
        totals = [
            torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) if need and each is not None
            else None
            for each, need in zip((hidden, weight, bias), needed, strict=True)
        ]  # fmt: skip
        values = torch.empty_like(weights)  # now: a small tensor made between the tiles would keep their memory apart
        for at in self.of(len(hidden)):
            x = hidden[at]
            products = F.linear(x, weight, bias).requires_grad_()
            with torch.enable_grad():
                value = weights[at] * self.loss(self.logits(products), at)
                (slope,) = torch.autograd.grad(value.sum(), products)
            values[at] = value.detach()
            del products, value
            if totals[0] is not None:
                totals[0][at] = slope @ weight
            if totals[1] is not None:
                add_product(totals[1], slope.mT, x)
            if totals[2] is not None:
                totals[2] += slope.sum(0)
        return values, [
            total if total is None or each is None else total.to(each.dtype)
            for total, each in zip(totals, (hidden, weight, bias), strict=True)
        ]


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b"""
    if a.dtype == b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class InTiles(torch.autograd.Function):
    """Forward makes the gradients too, for an upstream gradient that is equal for all rows, as that of a mean is."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor, job: Tiles) -> Tensor:
        ctx.job, ctx.needed = job, tuple(ctx.needs_input_grad[:3])
        if not any(ctx.needed):
            return job.values(hidden, weight, bias, weights)
        ctx.save_for_backward(hidden, weight, bias, weights)
        device = hidden.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        values, ctx.made = job.gradients(hidden, weight, bias, weights, ctx.needed)
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (up,) = upstream
        made, ctx.made = ctx.made, None
        if made is None or not bool((up == up[:1]).all()):
            hidden, weight, bias, weights = ctx.saved_tensors
            device, dtype, enabled = ctx.autocast
            with torch.autocast(device, dtype, enabled=enabled):
                _, made = ctx.job.gradients(hidden, weight, bias, weights * up, ctx.needed)
        elif len(up) and float(up[0]) != 1:
            for each in made:
                if each is not None:
                    each.mul_(up[0])
        return (*made, None, None)
