"""Less memory for any loss of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Chunked:
    """`Chunked(kl, pieces=8)(s, t, tau=2.0)`: the same numbers as `kl(s, t, tau=2.0)` with an eighth of its
    intermediate memory. The rows are taken piece by piece, and each piece is computed again in the backward pass.

    loss: any function of tensors with equal first dimensions that gives one number per row and looks at that row alone;
        not for losses of relations between rows.
    """

    loss: Callable[..., Tensor]
    pieces: int

    def __call__(self, *rows: Tensor, **settings: Any) -> Tensor:
        parts = zip(*(each.chunk(self.pieces) for each in rows), strict=True)
        return torch.cat([checkpoint(self.loss, *part, use_reentrant=False, **settings) for part in parts])
