"""A few vectors in place of demonstrations, written by a small model for a frozen large one (Li et al. 2024, MEND)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import UNLABELLED, given
from limbeck.data.text import Tokens
from limbeck.errors import SettingError
from limbeck.signals import EMBEDDING, Output, as_net


class Mend(nn.Module):
    """input_ids (b, n), of which the first `context` (b,) are demonstrations -> an Output for all places, so that rows
    are those of the model that reads everything; only what is said from the last demonstration on means something.

    model: frozen; it reads the vectors and then the query. distiller: reads the demonstrations and then `vectors`
    learnt inputs, and its states there are mapped to the model's width. Both are GPTs of ours or transformers causal
    language models. Gradients go through the model.
    """

    def __init__(self, model: nn.Module, distiller: nn.Module, *, vectors: int = 100) -> None:
        super().__init__()
        if vectors < 1:
            raise SettingError(f"the demonstrations become 1 vector at least; got vectors={vectors}")
        self.model, self.distiller = as_net(model).requires_grad_(False), as_net(distiller)
        known, wide = embeddings(self.distiller).weight, embeddings(self.model).weight.shape[1]
        self.inputs = nn.Parameter(known[torch.randint(len(known), (vectors,))].detach().clone())
        narrow = known.shape[1]
        self.map = nn.Identity() if narrow == wide else nn.Linear(narrow, wide)

    def train(self, mode: bool = True) -> Mend:
        super().train(mode)
        self.model.eval()
        return self

    def vectors(self, input_ids: Tensor, context: Tensor) -> Tensor:
        """(b, vectors, model's width)"""
        (b, n), m = input_ids.shape, len(self.inputs)
        both = torch.cat([embeddings(self.distiller)(input_ids), self.inputs.expand(b, -1, -1)], 1)
        k, place = context[:, None], torch.arange(int(context.max()) + m, device=input_ids.device)
        order = torch.where(place < k, place, (n + place - k).clamp(max=n + m - 1))  # the vectors right behind each
        states = self.distiller({"inputs_embeds": taken(both, order)}).embedding
        mapped: Tensor = self.map(taken(states, k + torch.arange(m, device=k.device)))
        return mapped

    def forward(self, input_ids: Tensor, context: Tensor) -> Output:
        vectors, place = self.vectors(input_ids, context), torch.arange(input_ids.shape[1], device=input_ids.device)
        k = context[:, None]
        query = embeddings(self.model)(input_ids.gather(1, (k + place).clamp(max=len(place) - 1)))
        output = self.model({"inputs_embeds": torch.cat([vectors, query], 1)})
        back = (place - k + vectors.shape[1]).clamp(min=0)
        if output.head is None:
            return Output({".logits": taken(output.logits, back)})
        return Output({EMBEDDING: taken(output.embedding, back)}, head=output.head)


def embeddings(net: Any) -> nn.Embedding:
    return net.module.get_input_embeddings()  # type: ignore[no-any-return]


def taken(x: Tensor, places: Tensor) -> Tensor:
    """(b, m, width): of x (b, n, width) at places (b, m)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def with_context(data: Tokens, context: Tensor | float = 0.8) -> Tokens:
    """The same texts, of which the first `context` (n,) tokens, or this share of the length, are demonstrations: they
    are told as an input and lose their labels."""
    ids, y = data.x["input_ids"], given(data.y)
    if not isinstance(context, Tensor):
        context = torch.full((len(ids),), round(context * ids.shape[1]))
    if int(context.min()) < 1 or int(context.max()) >= ids.shape[1]:
        raise SettingError(f"demonstrations take 1 to {ids.shape[1] - 1} of {ids.shape[1]} tokens; got {context}")
    query = torch.arange(ids.shape[1]) >= context[:, None]
    x = {**data.x, "context": context}
    return Tokens(x, y.masked_fill(~query, UNLABELLED), data.tokenizer, masks=data.masks)
