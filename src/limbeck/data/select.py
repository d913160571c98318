"""Which examples to train on: scores of examples, and selections by score as sorted ids, for `subset`.

ids = prune(el2n(logits, data.y), 0.1)
run = Run(student, data=subset(data, ids), ...)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from limbeck.data import UNLABELLED, Data, pick
from limbeck.data.draws import uniform
from limbeck.errors import DataError, SettingError
from limbeck.step import concatenate
from limbeck.targets import one_hot

# --- scores ----------------------------------------------------------------------------------------------------------


def random_scores(n: int, *, seed: int) -> Float[Tensor, " n"]:
    """The same for a seed, so that a smaller random selection is part of a larger one."""
    return uniform(seed, torch.arange(n), epoch=0, stream="selection", n=1)[:, 0]


def el2n(logits: Float[Tensor, "*runs n c"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """||softmax(logits) - one_hot(y)||_2, the mean over several runs (Paul et al. 2021, arXiv:2107.07075, definition
    2.2); in [0, sqrt(2)], high for the hard ones. The authors take 10 runs after a few epochs.

    Raises DataError for an example without a label.
    """
    if bool((y == UNLABELLED).any()):
        raise DataError("EL2N compares with the label, and some examples have none: score the labelled ones only")
    error = logits.softmax(-1) - one_hot(y, logits.shape[-1], logits.dtype)
    norms: Tensor = torch.linalg.vector_norm(error, dim=-1)
    return norms.reshape(-1, len(y)).mean(0)


def forgetting(right: Bool[Tensor, "epochs n"]) -> Float[Tensor, " n"]:
    """How often an example that was right in one epoch was wrong in the next (Toneva et al. 2019, arXiv:1812.05159,
    definition in section 2); infinite if it never was right, as in the authors' ordering."""
    events = (right[:-1] & ~right[1:]).sum(0).float()
    return events.masked_fill(~right.any(0), torch.inf)


# --- selections ------------------------------------------------------------------------------------------------------


def prune(
    scores: Float[Tensor, " n"],
    fraction: float,
    *,
    y: Int[Tensor, " n"] | None = None,
    keep: Literal["highest", "lowest"] = "highest",
) -> Int[Tensor, " k"]:
    """Ids of the share of the examples that is kept, those of the highest scores; equal scores in order of id.

    fraction: in (0, 1]. y: with labels, that share of each class (rounded, at least one). With scores of hardness,
    the highest are the hardest.
    """
    if not 0 < fraction <= 1:
        raise SettingError(f"fraction is in (0, 1]; got {fraction}")
    groups = torch.zeros(len(scores), dtype=torch.long) if y is None else y
    kept = []
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        order = scores[members].argsort(descending=keep == "highest", stable=True)
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return torch.cat(kept).sort().values


def topk_per_class(scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], k: int) -> Int[Tensor, " m"]:
    """Ids of the k examples of the highest scores of each class, or all of a class that has fewer (Cui et al. 2021,
    SSLD, section 3.2). For a teacher's choice: `scores, labels = logits.softmax(-1).max(-1)`."""
    if k < 1:
        raise SettingError(f"k is at least 1; got {k}")
    kept = [torch.empty(0, dtype=torch.long)]
    for label in labels[labels != UNLABELLED].unique():
        members = (labels == label).nonzero().flatten()
        kept.append(members[scores[members].argsort(descending=True, stable=True)[:k]])
    return torch.cat(kept).sort().values


def near(
    pool: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"], *, least: float, rows: int = 4096
) -> Bool[Tensor, " n"]:
    """Which examples of a pool have a near-duplicate in the held-out ones: features with a cosine of at least `least`.

    rows: of the pool at a time, to bound the memory.
    """
    held_out = F.normalize(held_out, dim=1)
    parts = [(F.normalize(part, dim=1) @ held_out.T).amax(1) >= least for part in pool.split(rows)]
    return torch.cat(parts)


# --- data ------------------------------------------------------------------------------------------------------------


def remade(data: Data, x: Any, y: Tensor | None, masks: Mapping[str, Tensor]) -> Data:
    """The same kind of data, with other examples."""
    data.num_classes  # noqa: B018 - the largest label of all examples, not of those that stay
    made = copy.copy(data)
    made.x, made.y, made.masks = x, y, dict(masks)
    made.num_examples = len(next(iter(x.values())) if isinstance(x, Mapping) else x)
    return made


def subset(data: Data, ids: Int[Tensor, " k"]) -> Data:
    """The examples of these ids, numbered anew from 0: a record of targets by id for all examples does not fit."""
    x = pick(data.x, ids) if data.in_memory else Subset(data.x, ids.tolist())
    masks = {name: mask[ids] for name, mask in data.masks.items()}
    return remade(data, x, None if data.y is None else data.y[ids], masks)


def joined(data: Data, extra: Data) -> Data:
    """The examples of both, with the views of the first; the extra ones without labels. Masks but "valid" are left
    out."""
    if data.in_memory != extra.in_memory:
        raise DataError(
            "one of the two is in memory, the other a Dataset: turn both into tensors, or both into Datasets"
        )
    x = concatenate([data.x, extra.x]) if data.in_memory else ConcatDataset([data.x, extra.x])
    nothing = torch.full((len(extra),), UNLABELLED)
    y = None if data.y is None else torch.cat([data.y, nothing])
    masks = {}
    if "valid" in {*data.masks, *extra.masks}:
        masks["valid"] = torch.cat([d.masks.get("valid", torch.ones(len(d), dtype=torch.bool)) for d in (data, extra)])
    return remade(data, x, y, masks)
