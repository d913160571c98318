"""What a record holds, how large it is, and how far it is from what the teacher said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.logit import kl

if TYPE_CHECKING:
    from limbeck.data import Batch
    from limbeck.records.format import Record, Signal


def error(
    signal: Signal, values: Tensor, stored: Tensor, batch: Batch, head: Mapping[str, Tensor] | None
) -> dict[str, float]:
    """The signal as it is read back, against what the teacher said; see `of_logits`, and for features the root of the
    mean square error as a share of the values'."""
    from limbeck.records.capture import start_points
    from limbeck.records.format import Shard

    u = start_points(0, stored, batch, Shard("x", 0, 0, len(stored), ""))
    read = signal.decode(signal.encode(stored, u), head)
    if signal.name == ".logits":
        return rounded(of_logits(values.flatten(0, -2), read.flatten(0, -2)))
    off, size = (read - values).double().square().mean(), values.double().square().mean()
    return rounded({"relative": float((off / size.clamp(min=1e-30)).sqrt())})


def of_logits(dense: Tensor, read: Tensor) -> dict[str, float]:
    """Means over the rows (n, classes): KL(dense || read) in nats, how often the first choice is the same, and the
    cosine of the gradients that a student's KL gets from the two; the student is the teacher with normal noise of
    deviation 1 on its logits."""
    dense, read = dense.double(), read.double()
    noise = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student = (dense + noise).softmax(-1)
    gradients = student - dense.softmax(-1), student - read.softmax(-1)
    return {
        "kl": float(kl(read, dense).mean()),
        "same_choice": float((dense.argmax(-1) == read.argmax(-1)).double().mean()),
        "gradient_cosine": float(F.cosine_similarity(*gradients).mean()),
    }


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """To three places, that machines may agree on."""
    return {name: float(f"{figure:.3g}") for name, figure in figures.items()}


def summary(record: Record) -> dict[str, Any]:
    """What is in it: for `limbeck record inspect`."""
    header = record.header
    expected = list(record.expected())
    there = [shard for shard in expected if shard.file in record.shards]
    return {
        "teacher": header["teacher"]["kind"],
        "examples": record.examples,
        "seed": header["seed"],
        "views": {
            name: {"epochs": view["epochs"], "random": view["random"], "code": view["code"]}
            for name, view in header["views"].items()
        },
        "signals": {
            name: {
                "encoding": signal.encoding,
                "shape": signal.shape,
                "bytes": signal.dtype.itemsize,
                "error": header["error"][name],
            }
            for name, signal in record.signals.items()
        },
        "row_bytes": record.row_bytes,
        "shards": (len(there), len(expected)),
        "bytes": sum(record.shards[shard.file]["bytes"] for shard in there),
        "command": header["command"],
    }
