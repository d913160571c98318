"""Models of pairs of texts: {"a": (b, n), "b": (b, m)} token ids, padded on the right -> one score (b, 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.signals import as_net


class Pooled(nn.Module):
    """Token ids (b, n) -> a vector for each text (b, width): the mean of a language model's last states over all tokens
    but `pad`, or with which="first" the state of the first (BERT's [CLS])."""

    def __init__(self, body: nn.Module, *, pad: int, which: str = "mean") -> None:
        super().__init__()
        self.body, self.pad, self.which = as_net(body), pad, which

    def forward(self, ids: Tensor) -> Tensor:
        kept = ids != self.pad
        output = self.body({"input_ids": ids, "attention_mask": kept.long()})
        states: Tensor = output["last_hidden_state"] if "last_hidden_state" in output.signals else output.embedding
        if self.which == "first":
            return states[:, 0]
        states = torch.where(kept[..., None], states, 0.0)
        return states.sum(1) / kept.sum(1, keepdim=True).clamp(min=1)


class BiEncoder(nn.Module):
    """The cosine of two texts' vectors, in [-1, 1]. encoder: ids -> (b, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(self.encoder(a), self.encoder(b)).unsqueeze(1)


class CrossEncoder(nn.Module):
    """The logit of a pair that is read as one text, a `separator` between the two. encoder: ids -> (b, width)."""

    def __init__(self, encoder: nn.Module, width: int, *, pad: int, separator: int) -> None:
        super().__init__()
        self.encoder, self.pad, self.separator = encoder, pad, separator
        self.head = nn.Linear(width, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        between = a.new_full((len(a), 1), self.separator)
        ids = torch.cat([a, between, b], 1)
        to_the_right = (ids == self.pad).int().argsort(dim=1, stable=True)  # padding goes behind both
        logits: Tensor = self.head(self.encoder(ids.gather(1, to_the_right)))
        return logits
