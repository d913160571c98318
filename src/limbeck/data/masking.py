"""Which tokens of a text are hidden from a model that is to fill them in."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import SettingError

__all__ = ["Masks", "semi_autoregressive"]


class Masks(NamedTuple):
    """Two complementary ways of hiding one block of an answer: `first` and `second` are learnt, one in each pass;
    `after`, the rest of the answer, is hidden in both and not learnt. All (b, t) bool."""

    first: Bool[Tensor, "b t"]
    second: Bool[Tensor, "b t"]
    after: Bool[Tensor, "b t"]


def semi_autoregressive(
    answer: Bool[Tensor, "b t"], u: Float[Tensor, "b t1"], *, block: int = 32, ratio: float = 0.5, eps: float = 1e-3
) -> Masks:
    """What a decoder that fills an answer block by block sees: all before some block, parts of it, nothing behind it
    (Chen et al. 2025, dParallel; LLaDA/llada_train.py, which draws its tokens anew for the whole batch at every
    example, where here each example has its own).

    answer: the tokens of the answers, without prompts. u: (b, 1 + t) uniform numbers in [0, 1). All blocks are equally
        likely, the last one may be shorter (the authors also draw an empty one behind answers of whole blocks).
    ratio: of the block, what `first` hides, as (1 - eps) ratio + eps.
    """
    if block < 1 or not 0 <= ratio <= 1:
        raise SettingError(
            f"semi_autoregressive takes block >= 1 and ratio in [0, 1]; got block={block}, ratio={ratio}"
        )
    blocks = (answer.sum(1) + block - 1) // block
    start = (u[:, 0] * blocks).long().minimum(blocks - 1) * block  # the product may round up
    end = start + block
    place = answer.cumsum(1) - 1
    active = answer & (place >= start[:, None]) & (place < end[:, None])
    hidden = u[:, 1:] < (1 - eps) * ratio + eps
    return Masks(active & hidden, active & ~hidden, answer & (place >= end[:, None]))
