"""A student that is cut out of its teacher.

student = cut(teacher, data, heads=2)       # half of the heads, and of all widths
student = cut_vocabulary(teacher, data.x["input_ids"], other=0)       # of some languages only
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from limbeck.data import Data
from limbeck.errors import SettingError
from limbeck.evaluate import evaluating
from limbeck.losses.logit import cross_entropy
from limbeck.models.gpt import GPT
from limbeck.signals import as_net
from limbeck.step import Player

__all__ = ["Importance", "cut", "cut_vocabulary", "importance"]

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Importance:
    """How much the loss changes with each part of a GPT: heads (depth, heads), neurons (depth, 4 width) of the
    feed-forward nets, hidden (width,). Those of a layer have length 1."""

    heads: Tensor
    neurons: Tensor
    hidden: Tensor


def importance(model: GPT, data: Data, *, batch_size: int = 8) -> Importance:
    """Mean over the batches of |dL / dm|, L the cross-entropy with the data's labels and m = 1 a factor of each part;
    each layer's is brought to length 1, and a hidden unit's are summed over the layers (Zhang et al. 2023, MiniMA,
    arXiv:2311.07052, after Michel et al. 2019). In eval mode, by the labels of some hundred texts."""
    weight = model.embed.weight
    depth, (_, width) = len(model.blocks), weight.shape
    masks = {
        "heads": weight.new_ones(depth, model.heads).requires_grad_(),
        "neurons": weight.new_ones(depth, 4 * width).requires_grad_(),
        "hidden": weight.new_ones(depth, width).requires_grad_(),
    }

    def entering(mask: Tensor, repeat: int) -> Callable[[Any, Any], Any]:
        return lambda module, args: (args[0] * mask.repeat_interleave(repeat), *args[1:])

    hooks, blocks = [], cast(Any, model.blocks)
    for i, block in enumerate(blocks):
        hooks += [
            block.attention.out.register_forward_pre_hook(entering(masks["heads"][i], width // model.heads)),
            block.mlp[2].register_forward_pre_hook(entering(masks["neurons"][i], 1)),
            block.register_forward_hook(lambda module, args, out, i=i: out * masks["hidden"][i]),
        ]
    totals = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    net = as_net(model)
    try:
        with evaluating(net):
            for batch in data.batches(list(torch.arange(data.num_examples).split(batch_size))):
                loss = cross_entropy(Player(batch, "student", net)("x").logits, batch.row_labels).mean()  # type: ignore[arg-type]
                for name, slope in zip(masks, torch.autograd.grad(loss, list(masks.values())), strict=True):
                    totals[name] += slope.abs()
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: nn.functional.normalize(total, dim=1) for name, total in totals.items()}
    return Importance(found["heads"], found["neurons"], found["hidden"].sum(0))


def cut(model: GPT, data: Data, *, heads: int, batch_size: int = 8) -> GPT:
    """A GPT of the same depth with the model's most important parts: so many of its heads in each layer, and the same
    share of its width and of the neurons of each layer, with their weights (Zhang et al. 2023, MiniMA). For a share p
    of the parameters to go, the paper cuts both dimensions of a matrix by 1 - sqrt(1 - p): 1 - heads / all heads.

    The model stays as it is. A distillation starts from the result, which is much worse than the model.
    """
    if not 1 <= heads <= model.heads:
        raise SettingError(f"of {model.heads} heads some are kept; got heads={heads}")
    found, depth = importance(model, data, batch_size=batch_size), len(model.blocks)
    vocabulary, width = model.embed.weight.shape
    each = width // model.heads
    small = GPT(
        vocabulary,
        width=heads * each,
        depth=depth,
        heads=heads,
        tied=model.lm_head.weight is model.embed.weight,
        softcap=model.softcap,
        causal=model.causal,
    )
    hidden = largest(found.hidden, heads * each)
    every = torch.arange(vocabulary, device=hidden.device)
    places = {"embed.weight": (every, hidden), "lm_head.weight": (every, hidden), "norm.weight": (hidden,)}
    for i in range(depth):
        neurons = largest(found.neurons[i], 4 * heads * each)
        starts = each * largest(found.heads[i], heads)
        mixed = torch.cat([torch.arange(start, start + each) for start in starts.tolist()])  # what kept heads say
        asked = torch.cat([mixed, mixed + width, mixed + 2 * width])  # queries, keys, values
        places |= {
            f"blocks.{i}.norm1.weight": (hidden,),
            f"blocks.{i}.attention.qkv.weight": (asked, hidden),
            f"blocks.{i}.attention.out.weight": (hidden, mixed),
            f"blocks.{i}.norm2.weight": (hidden,),
            f"blocks.{i}.mlp.0.weight": (neurons, hidden),
            f"blocks.{i}.mlp.0.bias": (neurons,),
            f"blocks.{i}.mlp.2.weight": (hidden, neurons),
            f"blocks.{i}.mlp.2.bias": (hidden,),
        }
    kept = {name: taken(weight, *places[name]) for name, weight in model.state_dict().items()}
    small.load_state_dict(kept)
    return small.to(model.embed.weight.device)


def largest(scores: Tensor, k: int) -> Tensor:
    """Places of the k largest, in their order."""
    return scores.topk(k).indices.sort().values


def taken(weight: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    return weight[rows] if columns is None else weight[rows][:, columns]


# --- a smaller vocabulary -----------------------------------------------------------------------------------------


class SomeRows(nn.Module):
    """Embeddings of some tokens of a vocabulary: ids (b, n) -> (b, n, width); all other tokens have that of `other`."""

    rows: Tensor

    def __init__(self, embedding: nn.Embedding, kept: Tensor, other: int) -> None:
        super().__init__()
        rows = torch.full((len(embedding.weight),), int((kept == other).nonzero()), device=kept.device)
        rows[kept] = torch.arange(len(kept), device=kept.device)
        self.register_buffer("rows", rows)
        padding = None if embedding.padding_idx is None else int(rows[embedding.padding_idx])
        self.embedding = nn.Embedding.from_pretrained(embedding.weight[kept].detach(), False, padding)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.embedding.weight
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.embedding(self.rows[ids])
        return found


def cut_vocabulary(model: Model, ids: Tensor, *, other: int) -> Model:
    """A trainable copy whose embeddings are those of the tokens in `ids`, of any shape, `other` and padding: for a
    student of fewer languages than its teacher (Ansell et al. 2023, BiStil, arXiv:2306.01709). It reads the same ids,
    those that are left out as `other`, the tokenizer's unknown token.

    model: a GPT of ours or of transformers. A head over tokens stays whole, and learns for itself if it was tied.
    """
    student = copy.deepcopy(model).requires_grad_(True).train()
    embedding = student.get_input_embeddings()  # type: ignore[operator]
    places = [name for name, module in student.named_modules() if module is embedding]
    size = len(embedding.weight)
    kept = torch.cat([ids.flatten(), ids.new_tensor([other])]).to(embedding.weight.device)
    if embedding.padding_idx is not None:
        kept = torch.cat([kept, kept.new_tensor([embedding.padding_idx])])
    kept = kept.unique()
    if int(kept[0]) < 0 or int(kept[-1]) >= size:
        raise SettingError(
            f"tokens of a vocabulary of {size} are 0 to {size - 1}; got {int(kept[0])} to {int(kept[-1])}"
        )
    student.set_submodule(places[0], SomeRows(embedding, kept, other))
    return student
