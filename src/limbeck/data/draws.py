"""Randomness without state: every number is a hash of what it is for.

A draw depends on the seed, the example's id, the epoch, the name of its stream and its column, and on nothing else.
So a run can be replayed from any step, and an example gets the same augmentation whatever batch, worker or device it
lands on.

The numbers are the outputs of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), one generator per example, started from a hash of everything but the column. It is integer arithmetic
modulo 2^64 throughout, which int64 tensors do alike on every device.
"""

import math
from hashlib import blake2b

import torch
from torch import Tensor

__all__ = ["integers", "normal", "uniform"]


def uniform(seed: int, index: Tensor, *, epoch: int, stream: str, n: int) -> Tensor:
    """Uniform numbers for each example, the same to the bit on every device.

    Args:
        seed: the run's seed, any integer.
        index: (b,) int64, the examples' ids.
        epoch: which pass over the data the numbers are for.
        stream: what the numbers are for; draws of one stream share their bits, whichever function makes them.
        n: how many numbers an example gets; fewer columns are a prefix of more.

    Returns:
        (b, n) float32 in [0, 1), multiples of 2^-24.
    """
    return _shift(_bits(seed, index, epoch, stream, n), 40).to(torch.float32) * 2.0**-24


def integers(seed: int, index: Tensor, *, epoch: int, stream: str, n: int, high: int | Tensor) -> Tensor:
    """Integers for each example, the same to the bit on every device.

    Args:
        seed, index, epoch, stream, n: see `uniform`.
        high: one above the largest number, at least 1; a tensor that broadcasts to (b, n), such as (b, 1), for a bound
            per example.

    Returns:
        (b, n) int64 in [0, high), taken from 63 bits: their probabilities differ by less than high / 2^63.
    """
    if isinstance(high, int) and high < 1:
        raise ValueError(f"high must be at least 1, got {high}")
    return _shift(_bits(seed, index, epoch, stream, n), 1) % high


def normal(seed: int, index: Tensor, *, epoch: int, stream: str, n: int) -> Tensor:
    """Standard normal numbers for each example, by Box and Muller (1958).

    Returns:
        (b, n) float32 within +-5.8; devices agree up to the rounding of their logarithm and cosine.
    """
    u = uniform(seed, index, epoch=epoch, stream=stream, n=2 * n)
    radius, angle = 1 - u[:, 0::2], 2 * math.pi * u[:, 1::2]  # 1 - u is in (0, 1], where the logarithm is finite
    return (-2 * radius.log()).sqrt() * angle.cos()


def _bits(seed: int, index: Tensor, epoch: int, stream: str, n: int) -> Tensor:
    """(b, n) int64 of 64 random bits each."""
    # Python's own hash() of a string differs from process to process.
    digest = blake2b(repr((seed, epoch, stream)).encode(), digest_size=8).digest()
    state = _mix(index.long() + int.from_bytes(digest, "little", signed=True))
    column = torch.arange(1, n + 1, device=index.device)
    return _mix(state[:, None] + column * _GOLDEN)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser: every bit of the input changes each bit of the output with probability near 1/2."""
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """The logical shift to the right: `>>` alone repeats the sign bit of an int64."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    """The int64 with the same 64 bits."""
    return constant - (1 << 64) if constant >> 63 else constant


_GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_MIX_1 = _signed(0xBF58476D1CE4E5B9)  # both from Stafford's "Mix13"
_MIX_2 = _signed(0x94D049BB133111EB)
