"""A compact language model, causal or not: Radford et al. 2019 with rotary places (Su et al. 2021) and RMS norms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import SettingError, ShapeError
from limbeck.models.vit import feedforward
from limbeck.signals import ATTENTION, EMBEDDING, HIDDEN, Head, Output, Signal

Cache = list[tuple[Tensor, Tensor]]


def rotary(places: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of (..., n) places: (..., n, dim / 2) each."""
    rates = 10_000.0 ** (-torch.arange(0, dim, 2, device=places.device) / dim)
    angles = places[..., None] * rates
    return angles.cos(), angles.sin()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of (b, heads, n, dim) turned by their places' angles."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


class Attention(nn.Module):
    """Each token sees itself and those before, or all: (b, n, dim) -> (b, n, dim)."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        turns: tuple[Tensor, Tensor],
        places: Tensor,
        seen: tuple[Tensor, Tensor] | None,
        maps: list[Tensor] | None,
        tokens: Tensor | None,
    ) -> Tensor:
        """tokens (b, 1, 1, n): those to see, where it is not causal; None: all."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, heads, n, dim)
        q, k = turn(q, *turns), turn(k, *turns)
        if maps is not None:
            scores = q @ k.mT / q.shape[-1] ** 0.5
            allowed = torch.ones_like(scores, dtype=torch.bool).tril() if self.causal else tokens
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -torch.inf)
            maps.append(scores.softmax(-1))
            mixed = maps[-1] @ v
        elif seen is None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=tokens, is_causal=self.causal)
        else:
            rows = torch.arange(len(x), device=x.device)[:, None]
            for kept, new in zip(seen, (k, v), strict=True):  # (b, length, heads, dim)
                kept[rows, places] = new.transpose(1, 2)
            k, v = (kept.transpose(1, 2) for kept in seen)
            earlier = torch.arange(k.shape[2], device=x.device) <= places[:, None, :, None]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=earlier)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention, then a feed-forward net, each on the normalised input: (b, n, dim) -> (b, n, dim)."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.attention = Attention(dim, heads, causal)
        self.mlp = feedforward(dim, 4 * dim)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """context: what the attention takes beside it."""
        x = x + self.attention(self.norm1(x), *context)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


@dataclass
class Asked:
    """What else a forward gives, set as in transformers' configs."""

    output_hidden_states: bool = False
    output_attentions: bool = False

    def to_dict(self) -> dict[str, bool]:
        """As peft reads it."""
        return asdict(self)


class GPT(nn.Module):
    """Token ids (b, n) -> an `Output` whose logits (b, n, vocab_size) are made when they are asked for.

    The embeddings are also the head's weight, unless `tied` is False. softcap: of the logits (see `Head`). What stands
    right of a token changes nothing, so sequences are padded on the right, with any id, and need no attention mask.
    With causal=False each token sees all of them, but padding by an `attention_mask` (b, n), for objectives that hide
    those to be predicted: MaskedLM, CertaintyForcing. Such a model writes by `limbeck.generate.fill` and has no
    perplexity.

    Its `.hidden`, the embeddings and each block's output, and its `.attention`, probabilities (b, heads, n, n), are
    there for objectives that read them.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        tied: bool = True,
        softcap: float | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise SettingError(f"each head has an even part of the width; got width={width} for heads={heads}")
        self.vocab_size, self.heads, self.softcap, self.causal = vocab_size, heads, softcap, causal
        self.config = Asked()
        self.embed = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(width, heads, causal) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.apply(small)
        for name, weight in self.named_parameters():  # what is added to the residual stream, by its length
            if name.endswith(("attention.out.weight", "mlp.2.weight")):
                weight.data.mul_((2 * depth) ** -0.5)
        if tied:
            self.lm_head.weight = self.embed.weight

    @property
    def head(self) -> Head:
        return Head(self.lm_head.weight, softcap=self.softcap)

    def cache(self, rows: int, length: int) -> Cache:
        """Room for what `forward` remembers of `rows` sequences of up to `length` tokens."""
        if not self.causal:
            raise SettingError(
                "a GPT with causal=False does not write from left to right: take causal=True, or limbeck.generate.fill"
            )
        weight = self.embed.weight
        shape = rows, length, self.heads, weight.shape[1] // self.heads
        return [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.blocks]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        places: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        **_: Tensor,
    ) -> Output:
        """places (b or 1, n): of these tokens in the sequences, where a `cache` holds those before; these join it.
        inputs_embeds (b, n, width): instead of ids."""
        if inputs_embeds is None:
            if input_ids is None or input_ids.dim() != 2:
                raise ShapeError(f"token ids are (b, n); got {None if input_ids is None else tuple(input_ids.shape)}")
            inputs_embeds = self.embed(input_ids)
        x = inputs_embeds
        if places is None:
            places = torch.arange(x.shape[1], device=x.device)[None]
        turns = rotary(places[:, None], x.shape[2] // self.heads)
        tokens = None if self.causal or attention_mask is None else attention_mask.bool()[:, None, None]
        hidden, maps = [x], list[Tensor]() if self.config.output_attentions and cache is None else None
        for i, block in enumerate(self.blocks):
            x = block(x, turns, places, None if cache is None else cache[i], maps, tokens)
            hidden.append(x)
        signals: dict[str, Signal] = {EMBEDDING: self.norm(x)}
        if self.config.output_hidden_states:
            signals[HIDDEN] = tuple(hidden)
        if maps is not None:
            signals[ATTENTION] = tuple(maps)
        return Output(signals, head=self.head)


def small(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
