"""Parity of the losses of a head: names and the authors' reductions, no mathematics."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.losses import Linear, linear_cross_entropy
from limbeck.signals import Head


def adapt_cce(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    shift = int(p["shift"])
    hidden, y = i["student"], i["target"][..., shift:]
    hidden = hidden[..., : hidden.shape[-2] - shift, :]
    y = y.masked_fill(y == p["ignore_index"], UNLABELLED)
    student = Linear(hidden.reshape(-1, hidden.shape[-1]), Head(i["classifier"], i["bias"], softcap=p["softcap"]))
    rows = linear_cross_entropy(student, y.flatten(), tile=3)
    if p["reduction"] == "mean":
        return rows.sum() / (y != UNLABELLED).sum()
    return rows.sum() if p["reduction"] == "sum" else rows.view(y.shape)


ADAPTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Tensor]] = {"cce": adapt_cce}
