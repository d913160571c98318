"""Numbers as distributions over bins, so that a regression is learnt by cross-entropy, and back."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.inputs import probabilities, wide


def hl_gauss(
    y: Float[Tensor, "*b"], *, low: float, high: float, bins: int, sigma: float | None = None
) -> Float[Tensor, "*b m"]:
    """The share of N(y, sigma^2) in each of `bins` equal bins of [low, high], renormalised to that range (Farebrother
    et al. 2024, the listing of appendix A). y is cut off at the range, which must leave room for a few
    sigma: near its ends the mean is biased. Read out with `expected` over the `mid_points`.

    sigma: in the unit of y, > 0; None: 0.75 of a bin's width, as in the paper.
    """
    ordered(low, high, bins)
    sigma = 0.75 * (high - low) / bins if sigma is None else sigma
    if sigma <= 0:
        raise SettingError(f"sigma is positive; got {sigma}")
    y = wide(y).detach().clamp(low, high).unsqueeze(-1)
    edges = torch.linspace(low, high, bins + 1, dtype=y.dtype, device=y.device)
    below = torch.erf((edges - y) / (math.sqrt(2) * sigma))
    return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def two_hot(y: Float[Tensor, "*b"], *, low: float, high: float, bins: int, slack: float = 0.0) -> Float[Tensor, "*b m"]:
    """y shared between the two nearest of `bins` centres from low to high, so that its mean is y (Farebrother et al.
    2024; rlax). y is cut off at the range. Read out with `expected` over linspace(low, high, bins).

    slack: added to the distance of the centres; rlax has 1e-5, which pushes the mean up a little.
    """
    ordered(low, high, bins)
    y = wide(y).detach().clamp(low, high)
    width = (high - low) / (bins - 1)
    place = ((y - low) / width).clamp(max=bins - 1)
    lower, upper = place.floor(), place.ceil()
    share = (upper - place) * width / ((upper - lower) * width + slack).clamp(min=1e-30)  # at a centre 0 / slack
    both = torch.stack([lower, upper], -1).long()
    return y.new_zeros(*y.shape, bins).scatter_add(-1, both, torch.stack([share, 1 - share], -1))


def mid_points(low: float, high: float, bins: int) -> Float[Tensor, " m"]:
    """The middles of `bins` equal bins of [low, high]."""
    half = (high - low) / bins / 2
    return torch.linspace(low + half, high - half, bins)


def expected(logits: Float[Tensor, "*b m"], centres: Float[Tensor, " m"]) -> Float[Tensor, "*b"]:
    """The value that logits over bins stand for: the mean of the centres under them."""
    p = probabilities(logits)
    return p @ centres.to(p)


def ordered(low: float, high: float, bins: int) -> None:
    if not low < high or bins < 2:
        raise SettingError(f"at least 2 bins from low to a greater high; got {bins} from {low} to {high}")
