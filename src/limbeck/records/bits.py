"""Small whole numbers in as few bits as they need: vectorised over rows, every row equally long."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[Any]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of a row of `count` numbers of `bits` bits."""
    return -(-count * bits // 8)


def pack(numbers: Ints, bits: int) -> Bytes:
    """(n, count) numbers below 2**bits, `bits` at most 24, to (n, packed_bytes(count, bits)); the lowest bit first."""
    planes = (numbers[..., None].astype(np.uint32) >> np.arange(bits, dtype=np.uint32) & 1).astype(np.uint8)
    return np.packbits(planes.reshape(len(numbers), -1), axis=1, bitorder="little")


def unpack(packed: Bytes, count: int, bits: int) -> Ints:
    """(n, count) numbers, as they were packed."""
    n, width = packed.shape
    if bits == 0:
        return np.zeros((n, count), np.uint32)
    padded = np.zeros((n, width + 3), np.uint8)  # so that four bytes can be read from each
    padded[:, :width] = packed
    words = np.ndarray((n, width), "<u4", padded, strides=(width + 3, 1))
    place = np.arange(count) * bits
    numbers: Ints = words[:, place // 8] >> (place % 8).astype(np.uint32) & np.uint32((1 << bits) - 1)
    return numbers


class EliasFano:
    """`count` ascending numbers in [0, width), repeats allowed, in about log2(width / count) + 2 bits each
    (Elias 1974, Fano 1971): within half a bit per number of log2 of the number of such sets.

    The low bits are packed as they are. The high parts are written in unary: the j-th number sets bit high_j + j of a
    map, so that decoding is a search for the ones, of which every row has `count`.
    """

    def __init__(self, count: int, width: int) -> None:
        self.count = count
        self.low = max(0, (width // count).bit_length() - 1)
        self.low_bytes = packed_bytes(count, self.low)
        self.map_bits = count + ((width - 1) >> self.low)
        self.bytes = self.low_bytes + packed_bytes(self.map_bits, 1)

    def encode(self, numbers: Ints) -> Bytes:
        """(n, count) ascending to (n, self.bytes)."""
        n = len(numbers)
        ones = np.zeros((n, self.map_bits), np.uint8)
        np.put_along_axis(ones, (numbers >> self.low) + np.arange(self.count), 1, axis=1)
        upper = np.packbits(ones, axis=1, bitorder="little")
        return np.concatenate([pack(numbers & ((1 << self.low) - 1), self.low), upper], axis=1) if self.low else upper

    def decode(self, coded: Bytes) -> NDArray[np.int64]:
        """(n, count) ascending, as they were."""
        upper = np.ascontiguousarray(coded[:, self.low_bytes :])
        ones = np.flatnonzero(np.unpackbits(upper, axis=1, bitorder="little").view(bool)).reshape(-1, self.count)
        ones -= np.arange(len(coded))[:, None] * (8 * upper.shape[1]) + np.arange(self.count)
        if self.low:
            ones <<= self.low
            ones |= unpack(coded[:, : self.low_bytes], self.count, self.low)
        return ones
