"""Losses of a linear head's logits without the logits: rows are taken tile by tile, forward and backward together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError, ShapeError
from limbeck.losses.logit import cross_entropy
from limbeck.signals import Head, finished

#: Bytes of a class's products with a group of rows, 256 in float32: fewer rows write the head's gradient too often.
GROUP = 1 << 10
#: Bytes of a tile of logits in float32: what a core's cache holds; elsewhere (not measured), what fills a GPU.
CACHE, ELSEWHERE = 1 << 20, 64 << 20
#: Bytes of a part of the head's gradient in float32.
PART = 8 << 20


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
    weights: Float[Tensor, " n"] | Float[Tensor, "n k"] | None = None,
    tile: int | None = None,
    **settings: Any,
) -> Float[Tensor, " n"] | Float[Tensor, "n k"]:
    """`loss(student's logits, teacher's logits, *rows, **settings)`, one number per row, times `weights`. Values and
    gradients are those of the dense computation, but the logits of a few rows only are there at any time.

    loss: any in which a row sees itself alone: kl, reverse_kl, jsd, skew_kl, taid, cross_entropy, yours.
        `torch.compile(kl)` is a little faster. teacher: None, if it takes none; no gradient flows to it.
    rows: further arguments with a row each, such as labels.
    weights: (n,); or (n, k), for a loss that gives k numbers per row. Give them here, not outside: the gradient is made
        in the forward pass, for numbers that count alike, and once more, in the backward pass, if they turn out not to.
    tile: rows compared at a time; None: as many as have 1 MB of logits on a CPU, 64 MB elsewhere.

    The head's gradient is summed in float32. Memory beside the gradients: both models' logits of 256 rows (512 in half
    precision) or a tile, whichever are more, and some fifteen tiles.
    Raises ShapeError where numbers of rows or classes differ.
    """
    n = len(student)
    lengths = [len(each) for each in (teacher, *rows, weights) if isinstance(each, Tensor | Linear)]
    if any(length != n for length in lengths):
        raise ShapeError(f"the student has {n} rows, what goes with it {lengths}: give one of each for every row")
    if tile is not None and tile < 1:
        raise SettingError(f"tile is at least 1 row; got {tile}")

    hidden, head = student.hidden, student.head
    tile = tile or fitting(head.classes, hidden.device)
    job = Tiles(partial(loss, **settings), teacher, rows, head.scale, head.softcap, tile)
    if weights is None:
        weights = torch.ones(n, device=hidden.device)
    weights = weights.detach().to(torch.promote_types(hidden.dtype, torch.float32))
    result: Tensor = InTiles.apply(hidden, head.weight, head.bias, weights, job)  # type: ignore[no-untyped-call]
    return result


def fitting(classes: int, device: torch.device) -> int:
    """Rows of a tile."""
    size = CACHE if device.type == "cpu" else ELSEWHERE
    return max(1, size // (4 * classes))


def linear_cross_entropy(
    student: Linear, y: Int[Tensor, " n"] | Float[Tensor, "n v"], *, tile: int | None = None
) -> Float[Tensor, " n"]:
    """`cross_entropy(student's logits, y)` by `linear_divergence`: exact, as Wijmans et al. 2025 (CCE) without its
    filter of small gradients, and by tiles of rows, not of classes. Rows whose label is UNLABELLED give 0, no gradient,
    and cost nothing. A z-loss is `linear_divergence(lambda logits: logits.logsumexp(-1) ** 2, student)`.
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


def spans(rows: slice, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]


@dataclass(frozen=True, eq=False)
class Tiles:
    """What the logits are used for. A group of rows is multiplied with the heads at once; its tiles, which are smaller,
    are compared: a loss needs several times their memory."""

    loss: Callable[..., Tensor]
    teacher: Logits | None
    rows: tuple[Tensor, ...]
    scale: float
    softcap: float | None
    tile: int

    def groups(self, hidden: Tensor) -> list[slice]:
        rows = GROUP // hidden.itemsize
        return spans(slice(0, len(hidden)), self.tile * max(1, rows // self.tile))

    def tiles(self, group: slice, products: Tensor) -> Iterator[tuple[slice, Tensor, tuple[Tensor, ...]]]:
        """Rows, their products, and what else the loss takes."""
        teacher = None if self.teacher is None else constant(self.teacher, group).split(self.tile)
        for i, (at, own) in enumerate(zip(spans(group, self.tile), products.split(self.tile), strict=True)):
            others = tuple(each[at] for each in self.rows)
            yield at, own, others if teacher is None else (teacher[i], *others)

    def compare(self, products: Tensor, others: tuple[Tensor, ...]) -> Tensor:
        return self.loss(finished(products, self.scale, self.softcap), *others)

    def values(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, weights: Tensor) -> Tensor:
        values = torch.empty_like(weights)
        for group in self.groups(hidden):
            for at, products, others in self.tiles(group, F.linear(hidden[group], weight, bias)):
                values[at] = weights[at] * self.compare(products, others)
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
        for group in self.groups(hidden):
            x = hidden[group]
            slopes = F.linear(x, weight, bias)
            self.differentiate(group, slopes, values, weights)
            if totals[0] is not None:
                totals[0][group] = slopes @ weight
            if totals[1] is not None:
                add_product(totals[1], slopes.mT, x)
            if totals[2] is not None:
                totals[2] += slopes.sum(0)
            del slopes  # before the next products are made
        return values, [
            total if total is None or each is None else total.to(each.dtype)
            for total, each in zip(totals, (hidden, weight, bias), strict=True)
        ]

    def differentiate(self, group: slice, products: Tensor, values: Tensor, weights: Tensor) -> None:
        """Fills in the values of the group's rows, and puts the gradients in the place of the products."""
        for at, own, others in self.tiles(group, products):
            leaf = own.detach().requires_grad_()
            with torch.enable_grad():
                value = weights[at] * self.compare(leaf, others)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            values[at] = value.detach()
            own.copy_(slope)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b; in low precision by parts, for the product is made before it is added."""
    if a.dtype == b.dtype == total.dtype:
        total.addmm_(a, b)
        return
    part = max(1, PART // total[0].nbytes)
    for some, rows in zip(total.split(part), a.split(part), strict=True):
        some += rows @ b


class InTiles(torch.autograd.Function):
    """Forward makes the gradients too, for an upstream gradient that is equal everywhere, as that of a mean is."""

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
        if torch.is_grad_enabled():  # by create_graph=True
            raise SettingError("losses in tiles have no second derivative: compare whole logits, output.logits")
        (up,) = upstream
        made, ctx.made = ctx.made, None
        if made is None or not bool((up == up.flatten()[:1]).all()):
            hidden, weight, bias, weights = ctx.saved_tensors
            device, dtype, enabled = ctx.autocast
            with torch.autocast(device, dtype, enabled=enabled):
                _, made = ctx.job.gradients(hidden, weight, bias, weights * up, ctx.needed)
        elif len(up) and float(up.flatten()[0]) != 1:
            for each in made:
                if each is not None:
                    each.mul_(up.flatten()[0])
        return (*made, None, None)
