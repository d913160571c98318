"""Losses between tokenizations, called as the parity cases ask for them: no mathematics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.alignment import chunk_divergence, chunk_log_probabilities
from limbeck.losses.logit import cross_entropy

Case = dict[str, Any]


def chunk_of_each(maps: Tensor) -> Tensor:
    """(b, n, chunks) of 0 and 1 as the number of the chunk, -1 for none."""
    return torch.where(maps.any(-1), maps.argmax(-1), -1)


def alm(inputs: Case, params: Case) -> Tensor:
    """The first token has no prediction; a chunk counts if a token of the teacher's that has one is in it."""
    assert params["mode"] == "naive"
    sums = {}
    for side in ("student", "teacher"):
        log_p = -cross_entropy(inputs[side][:, :-1], inputs[f"{side}_ids"][:, 1:])
        maps = inputs[f"{side}_chunks"]
        sums[side] = chunk_log_probabilities(log_p, chunk_of_each(maps[:, 1:]), maps.shape[-1])
    counted = inputs["teacher_chunks"][:, 1:].any(1)
    settings = {"tau": params["temperature"], "eps": params["eps"]}
    return chunk_divergence(sums["student"], sums["teacher"], compare="ce", **settings)[counted].mean()


ADAPTERS: dict[str, Callable[[Case, Case], Tensor]] = {"alm": alm}
