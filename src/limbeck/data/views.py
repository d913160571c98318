"""Views: augmentations of whole batches that can be replayed.

A view takes images (b, c, h, w), floats in [0, 1], and a `Draw`, its only source of randomness. It returns images of
the same shape and type, and treats every example by itself: row i depends on image i and on the draws' row i alone.

Views are frozen dataclasses, so they compare by value and print as the code that makes them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import SettingError

__all__ = ["Chain", "Crop", "Cutout", "Draw", "Flip", "Identity", "RandAugment", "View", "strong", "weak"]

Draw = Callable[[str, int], Tensor]
"""`draw(name, n)` gives (b, n) uniform numbers in [0, 1), always the same for the same name."""


class View(Protocol):
    """Anything that turns images into augmented images."""

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """(b, c, h, w) in [0, 1] to the same."""


@dataclass(frozen=True)
class Identity:
    """The images as they are."""

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        return x


@dataclass(frozen=True)
class Flip:
    """Left to right, with probability 1/2."""

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        flipped = draw("flip", 1)[:, :, None, None] < 0.5
        return torch.where(flipped, x.flip(-1), x)


@dataclass(frozen=True)
class Crop:
    """Shifts by up to `pad` whole pixels each way: zeros around the image, then a crop of its size at random."""

    pad: int = 4

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise SettingError(f"Crop needs pad >= 0, got {self.pad}")

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        h, w = x.shape[2:]
        top, left = _choose(draw("crop", 2), 2 * self.pad + 1).unbind(1)
        windows = F.pad(x, [self.pad] * 4).unfold(2, h, 1).unfold(3, w, 1)  # (b, c, top, left, h, w), not copied
        return windows[torch.arange(len(x), device=x.device), :, top, left]


@dataclass(frozen=True)
class Cutout:
    """A grey square (0.5) whose side is `size` of the image's shorter side (DeVries and Taylor, arXiv:1708.04552).

    Its centre is any pixel, so that the square may reach over the border.
    """

    size: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 1:
            raise SettingError(f"Cutout needs a size in [0, 1], got {self.size}")

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        h, w = x.shape[2:]
        side = round(self.size * min(h, w))
        u = draw("cutout", 2)
        rows = _covered(_choose(u[:, 0:1], h), side, h)[:, None, :, None]
        columns = _covered(_choose(u[:, 1:2], w), side, w)[:, None, None, :]
        return x.masked_fill(rows & columns, 0.5)


@dataclass(frozen=True)
class RandAugment:
    """`n` rounds of one operation each, drawn for every example, as in FixMatch (Sohn et al. 2020, Table 12).

    All operations are equally likely, and the strength is uniform over the operation's range, drawn anew each time.
    Color is for images of three channels; others draw from the remaining thirteen operations. Unlike the authors' code,
    which is PIL's, this shears about the centre, interpolates bilinearly and sharpens the border pixels too.
    """

    n: int = 2

    def __post_init__(self) -> None:
        if self.n < 0:
            raise SettingError(f"RandAugment needs n >= 0, got {self.n}")

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        colours = [op for op in _COLOURS if op.apply is not _color or x.shape[1] == 3]
        choices = _choose(draw("operation", self.n), len(colours) + len(_WARPS))
        strengths = draw("strength", self.n)
        for choice, strength in zip(choices.unbind(1), strengths.unbind(1), strict=True):
            x = _round(x, colours, choice, strength)
        return x


@dataclass(frozen=True, init=False, repr=False)
class Chain:
    """One view after another; each draws numbers of its own, even from a view of the same kind.

    A chain within a chain is written out flat.
    """

    views: tuple[View, ...]

    def __init__(self, *views: View) -> None:
        flat = [part for view in views for part in (view.views if isinstance(view, Chain) else (view,))]
        object.__setattr__(self, "views", tuple(flat))

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.views))})"

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        for place, view in enumerate(self.views):
            x = view(x, _within(draw, place))
        return x


def weak(flip: bool = True, pad: int = 4) -> Chain:
    """FixMatch's weak augmentation: flip and shift. Leave out the flip where left and right mean something."""
    return Chain(*([Flip()] if flip else []), *([Crop(pad)] if pad else []))


def strong(flip: bool = True, pad: int = 4) -> Chain:
    """FixMatch's strong augmentation: the weak one, then RandAugment and Cutout."""
    return Chain(weak(flip, pad), RandAugment(2), Cutout(0.5))


def _within(draw: Draw, place: int) -> Draw:
    """The draws of the view at that place in a chain."""
    return lambda name, n: draw(f"{place}.{name}", n)


def _choose(u: Tensor, n: int) -> Tensor:
    """Uniform numbers in [0, 1) to integers in [0, n)."""
    return (u * n).long()


def _covered(centre: Tensor, side: int, length: int) -> Tensor:
    """(b, length) bool: the pixels within `side` pixels around the centre (b, 1)."""
    first = centre - side // 2
    pixel = torch.arange(length, device=centre.device)
    return (first <= pixel) & (pixel < first + side)


class _Op(NamedTuple):
    """One of RandAugment's operations, and the range of its strength."""

    apply: Callable[..., Tensor]
    low: float = 0.0
    high: float = 0.0


def _round(x: Tensor, colours: list[_Op], choice: Tensor, u: Tensor) -> Tensor:
    """One operation for each example.

    Args:
        x: (b, c, h, w) images.
        colours: the colour operations that may be chosen; the warps follow them.
        choice: (b,) int64, which operation.
        u: (b,) in [0, 1), where in the range of its strength.
    """
    ops = [*colours, *_WARPS]
    order = choice.argsort(stable=True)  # brings the examples of an operation together, to run it once and on them only
    counts = torch.bincount(choice, minlength=len(ops)).tolist()  # the one wait for the device
    images = torch.split(x[order], counts)
    strengths = [
        op.low + (op.high - op.low) * part.to(x.dtype)
        for op, part in zip(ops, torch.split(u[order], counts), strict=True)
    ]
    k = len(colours)
    painted = [
        op.apply(image, m[:, None, None, None]) if len(image) else image
        for op, image, m in zip(colours, images[:k], strengths[:k], strict=True)
    ]
    matrices = [op.apply(m) for op, m in zip(_WARPS, strengths[k:], strict=True)]
    warped = _warp(torch.cat(images[k:]), torch.cat(matrices))
    return torch.cat([*painted, warped])[order.argsort()]


# A colour operation takes images (k, c, h, w) in [0, 1] and strengths (k, 1, 1, 1) and returns images. The rest of the
# batch must not even show in the last bit, since a later operation may round to a few levels and make it visible.


def _identity(x: Tensor, m: Tensor) -> Tensor:
    return x


def _brightness(x: Tensor, m: Tensor) -> Tensor:
    """From black at 0 to the image at 1."""
    return m * x


def _color(x: Tensor, m: Tensor) -> Tensor:
    """From grey levels at 0 to the image at 1."""
    return torch.lerp(_grey(x), x, m)


def _contrast(x: Tensor, m: Tensor) -> Tensor:
    """From the mean grey at 0 to the image at 1."""
    total = _levels(_grey(x)).sum((-2, -1), keepdim=True)  # whole numbers, whose sum is exact in any order
    return torch.lerp((total / (255 * x[0, 0].numel())).to(x.dtype), x, m)


def _sharpness(x: Tensor, m: Tensor) -> Tensor:
    """From the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 at 0 to the image at 1."""
    mean = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, stride=1)
    return torch.lerp((9 * mean + 4 * x) / 13, x, m)


def _autocontrast(x: Tensor, m: Tensor) -> Tensor:
    """Each channel stretched to reach from 0 to 1; a flat one stays."""
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    return torch.where(low < high, (x - low) / (high - low), x)


def _equalize(x: Tensor, m: Tensor) -> Tensor:
    """Each channel's histogram flattened, by PIL's formula; with under 255 pixels below its brightest it stays."""
    levels = _levels(x).flatten(2)
    ordered = levels.sort().values
    below = torch.searchsorted(ordered, levels)  # how many pixels of the channel are darker
    step = below.amax(-1, keepdim=True) // 255
    spread = (below + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, spread.clamp(max=255) / 255, x.flatten(2)).to(x.dtype).view_as(x)


def _posterize(x: Tensor, m: Tensor) -> Tensor:
    """The upper floor(m) of 8 bits."""
    dropped = (8 - m.long()).clamp(min=0)  # rounding can bring m up to 9
    return (_levels(x) >> dropped << dropped).to(x.dtype) / 255


def _solarize(x: Tensor, m: Tensor) -> Tensor:
    """Pixels above m inverted."""
    return torch.where(x > m, 1 - x, x)


def _grey(x: Tensor) -> Tensor:
    """(k, 1, h, w): the luma of ITU-R BT.601 for three channels, else the channels' mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = torch.split(x, 1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _levels(x: Tensor) -> Tensor:
    """int64 in 0..255."""
    return (x * 255).round().long()


# A warp takes strengths (k,) and returns rows (k, 6): the matrix [[a, b, s], [c, d, t]] that leads from where a pixel
# is shown to where its value comes from, both seen from the centre; s and t are shares of the width and the height.


def _rotate(m: Tensor) -> Tensor:
    """By m degrees, counter-clockwise."""
    cos, sin, zero = torch.cos(m * (math.pi / 180)), torch.sin(m * (math.pi / 180)), torch.zeros_like(m)
    return torch.stack([cos, -sin, zero, sin, cos, zero], dim=1)


def _entry(place: int, m: Tensor) -> Tensor:
    """The identity but for one entry, which is m."""
    rows = m.new_tensor([1, 0, 0, 0, 1, 0]).repeat(len(m), 1)
    rows[:, place] = m
    return rows


def _warp(x: Tensor, rows: Tensor) -> Tensor:
    """Images (k, c, h, w) through the maps (k, 6): bilinear, black outside."""
    if not len(x):
        return x
    h, w = x.shape[2:]
    right = torch.arange(w, device=x.device) - (w - 1) / 2
    down = (torch.arange(h, device=x.device) - (h - 1) / 2)[:, None]
    a, b, s, c, d, t = rows[:, :, None, None].unbind(1)
    # grid_sample wants the image to reach from -1 to 1. Written out, as affine_grid's matrix product rounds by batch.
    grid = torch.stack([(a * right + b * down) * (2 / w) + 2 * s, (c * right + d * down) * (2 / h) + 2 * t], dim=-1)
    return F.grid_sample(x, grid.to(x.dtype), align_corners=False).clamp(0, 1)


_COLOURS = [
    _Op(_identity),
    _Op(_autocontrast),
    _Op(_equalize),
    _Op(_brightness, 0.05, 0.95),
    _Op(_color, 0.05, 0.95),
    _Op(_contrast, 0.05, 0.95),
    _Op(_sharpness, 0.05, 0.95),
    _Op(_posterize, 4, 9),  # whole bits from 4 to 8
    _Op(_solarize, 0, 1),
]
_WARPS = [
    _Op(_rotate, -30, 30),
    _Op(partial(_entry, 1), -0.3, 0.3),  # ShearX
    _Op(partial(_entry, 3), -0.3, 0.3),  # ShearY
    _Op(partial(_entry, 2), -0.3, 0.3),  # TranslateX
    _Op(partial(_entry, 5), -0.3, 0.3),  # TranslateY
]
