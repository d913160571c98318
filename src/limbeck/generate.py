"""Texts from language models: sampled in batches, with a key-value cache and replayable; or masked tokens filled in."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.evaluate import evaluating
from limbeck.models.gpt import GPT
from limbeck.signals import as_net, bare


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    lengths: Tensor,
    *,
    new: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    end: int | None = None,
    vocabulary: int | None = None,
    generator: torch.Generator | None = None,
    draws: Tensor | None = None,
    other: Any = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Go on with prompts, each by up to `new` tokens: ids (b, n + new) and lengths (b,).

    model: a GPT of ours, or a transformers causal LM. input_ids (b, n), padded on the right; lengths (b,) >= 1: of the
        prompts. What stands behind a sequence's length in the result is 0.
    temperature: of the sampling, 0 for the most probable token each time. top_p: sample among the most probable tokens
        only, the fewest that together have this probability (Holtzman et al. 2020).
    end: the token after which a sequence is complete; it is kept. vocabulary: how many of the model's classes are
        tokens; None: all.
    generator: on the CPU, the only source of chance, so that its state replays the text. draws (b, new): instead of it,
        a number in [0, 1) for each token, which is where that part of the probabilities' sum ends.
    other, share: a second model of the same tokens, and its share of the probabilities that are drawn from, in [0, 1].

    No text grows beyond the positions that a transformers model was made for.
    """
    if temperature < 0 or new < 1 or not 0 < top_p <= 1:
        raise SettingError(f"temperature >= 0, new >= 1 and top_p in (0, 1]; got {temperature}, {new} and {top_p}")
    if int(lengths.min()) < 1:
        raise SettingError("a prompt has at least one token")
    if not 0 <= share <= 1 or (share > 0 and (other is None or temperature == 0)):
        raise SettingError(f"a share in [0, 1] of another model's, at a temperature; got {share} and {temperature}")
    if draws is None:
        draws = torch.rand(len(input_ids), new, generator=generator)
    draw = Draw(draws.to(input_ids.device), temperature, top_p)
    module, other = (bare(getattr(each, "module", each)) for each in (model, other))
    with evaluating(module), evaluating(module if other is None else other):
        if share > 0:
            draw.other, draw.share = speaking(other, input_ids, lengths, new, vocabulary), share
        if isinstance(module, GPT):
            return ours(module, input_ids, lengths, draw, end, vocabulary)
        if of_transformers(module):
            return theirs(module, input_ids, lengths, draw, end, vocabulary)
    raise unable(module)


def of_transformers(module: Any) -> bool:
    return hasattr(module, "generation_config") and not module.config.is_encoder_decoder


def unable(module: Any) -> SettingError:
    return SettingError(
        f"a {type(module).__name__} cannot generate: take limbeck.models.GPT or a transformers causal language model"
    )


@torch.no_grad()
def fill(
    model: Any, input_ids: Tensor, *, mask_token: int, block: int = 32, sure: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Fill in masked tokens, in each text so many after so many: ids (b, n), and in how many steps (b,).

    In each step the masked tokens of a text's first open block whose entropy is below `sure` nats become the most
    probable ones, and in any case the surest does (Chen et al. 2025, dParallel, arXiv:2509.26488); at 0 it is one
    token a step.

    model: predicts a token at the place before it, as GPT(causal=False) does. input_ids (b, n): with `mask_token` where
        a token is to be filled in, never at the first place.
    """
    if block < 1 or sure < 0:
        raise SettingError(f"fill takes block >= 1 and sure >= 0; got block={block}, sure={sure}")
    if bool((input_ids[:, 0] == mask_token).any()):
        raise SettingError("the first token is predicted from nothing: it cannot be a masked one")
    net, ids, steps = as_net(model), input_ids.clone(), torch.zeros_like(input_ids[:, 0])
    blocks = ((ids == mask_token).cumsum(1) - 1) // block
    with evaluating(net):
        while bool((hidden := ids == mask_token).any()):
            steps += hidden.any(1)
            current = torch.where(hidden, blocks, ids.shape[1]).amin(1, keepdim=True)
            logits = net({"input_ids": ids}).logits.roll(1, 1)
            logits[..., mask_token] = -torch.inf
            entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
            entropy = entropy.masked_fill(~hidden | (blocks != current), torch.inf)
            surest = torch.zeros_like(hidden).scatter(1, entropy.argmin(1, keepdim=True), True)
            now = (entropy < sure) | (surest & hidden)
            ids = torch.where(now, logits.argmax(-1), ids)
    return ids, steps


@dataclass
class Draw:
    """One class of each row, by its draw for the token at `place` of the new ones; to be called for each in turn."""

    draws: Tensor
    temperature: float
    top_p: float
    other: Generator[Tensor, Any, None] | None = None
    share: float = 0.0
    last: Tensor | None = None

    def __call__(self, logits: Tensor, place: int) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        p = self.softmax(logits)
        if self.other is not None:
            p = (1 - self.share) * p + self.share * self.softmax(self.other.send(self.last))
        if self.top_p < 1:
            sorted_p, order = p.sort(-1, descending=True)
            beyond = (sorted_p.cumsum(-1) - sorted_p >= self.top_p).gather(-1, order.argsort(-1))
            p = p.masked_fill(beyond, 0.0)
        ends = p.cumsum(-1)
        self.last = torch.searchsorted(ends, self.draws[:, place, None] * ends[:, -1:], right=True)[:, 0]
        return self.last

    def softmax(self, logits: Tensor) -> Tensor:
        return (logits.double() / self.temperature).softmax(-1)


def speaking(
    model: Any, input_ids: Tensor, lengths: Tensor, new: int, vocabulary: int | None
) -> Generator[Tensor, Any, None]:
    """The logits of what comes next; sent the tokens that were taken, those of what comes then."""
    if isinstance(model, GPT):
        rows = torch.arange(len(input_ids))
        cache = model.cache(len(input_ids), input_ids.shape[1] + new)
        hidden = model(input_ids, cache=cache).embedding[rows, lengths - 1]
        head, places = model.head if vocabulary is None else model.head.cut(vocabulary), lengths[:, None]
        while True:
            token = yield head(hidden)
            hidden = model(token[:, None], places=places, cache=cache).embedding[:, 0]
            places = places + 1
    elif of_transformers(model):
        ids, mask = left_padded(input_ids, lengths)
        places, cache = (mask.cumsum(1) - 1).clamp(min=0), None
        while True:
            settings = {"attention_mask": mask}
            if placed(model):
                settings["position_ids"] = places.clamp(max=room(model, places.max() + 1) - 1)
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, **settings)
            token = yield output.logits[:, -1, :vocabulary]
            ids, places, cache = token[:, None], places[:, -1:] + 1, output.past_key_values
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    raise unable(model)


def left_padded(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts (b, n) that were padded on the right, cut to the longest, and their mask."""
    n = int(lengths.max())
    before = (torch.arange(n, device=input_ids.device) - (n - lengths)[:, None]) % n
    mask = torch.arange(n, device=input_ids.device) >= (n - lengths)[:, None]
    return input_ids[:, :n].gather(1, before), mask.long()


def room(model: Any, otherwise: Any) -> int:
    """The positions that a transformers model was made for."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or otherwise)


def placed(model: Any) -> bool:
    """Whether it is told where its tokens stand."""
    return "position_ids" in signature(model.forward).parameters


def ours(
    model: GPT, input_ids: Tensor, lengths: Tensor, draw: Draw, end: int | None, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    (b, n), new = input_ids.shape, draw.draws.shape[1]
    ids = torch.cat([input_ids, input_ids.new_zeros(b, new)], 1)
    ids *= torch.arange(n + new, device=ids.device) < lengths[:, None]
    said, token = speaking(model, input_ids, lengths, new, vocabulary), None
    lengths, going = lengths.clone(), torch.ones_like(lengths, dtype=torch.bool)
    for place in range(new):
        token = draw(said.send(token), place)
        ids[torch.arange(b), lengths] = torch.where(going, token, 0)
        lengths = lengths + going
        if end is not None:
            going = going & (token != end)
            if not bool(going.any()):
                break
    return ids, lengths


def theirs(
    model: Any, input_ids: Tensor, lengths: Tensor, draw: Draw, end: int | None, vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """By transformers' own `generate`, which pads on the left; what it takes for the best token is the one drawn."""
    from transformers import GenerationConfig

    (b, wide), new = input_ids.shape, draw.draws.shape[1]
    padded, mask = left_padded(input_ids, lengths)
    n = padded.shape[1]

    def chosen(ids: Tensor, scores: Tensor) -> Tensor:
        token = draw(scores[:, :vocabulary], ids.shape[1] - n)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    settings = GenerationConfig(
        max_new_tokens=new, do_sample=False, eos_token_id=end, pad_token_id=0 if end is None else end
    )
    most = room(model, n + new)

    def within(module: Any, args: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A long prompt's row goes on while shorter ones need it; there are no more positions for it to be at."""
        places = settings.get("position_ids")
        if places is None and placed(model):  # OPT counts them itself
            places = (settings["attention_mask"].cumsum(1) - 1)[:, -settings["input_ids"].shape[1] :]
        if places is not None:
            settings["position_ids"] = places.clamp(0, most - 1)
        return args, settings

    hook = model.register_forward_pre_hook(within, with_kwargs=True)
    # In the model's place for them: its own would fill in what these leave open, such as a repetition penalty.
    own, model.generation_config = model.generation_config, settings
    try:
        found = model.generate(input_ids=padded, attention_mask=mask, logits_processor=[chosen])
    finally:
        model.generation_config = own
        hook.remove()
    said = torch.zeros(b, new, dtype=found.dtype, device=found.device)
    said[:, : found.shape[1] - n] = found[:, n:]
    count = torch.full_like(lengths, found.shape[1] - n)
    if end is not None:
        ended = said == end
        count = torch.where(ended.any(1), ended.int().argmax(1) + 1, count)
    count = count.minimum(most - lengths).clamp(min=0)
    ids = torch.cat([input_ids, input_ids.new_zeros(b, new)], 1)
    places = torch.arange(wide + new, device=ids.device) - lengths[:, None]
    inside = (places >= 0) & (places < count[:, None])
    ids = torch.where(places < 0, ids, torch.where(inside, said.gather(1, places.clamp(0, new - 1)), 0))
    return ids, lengths + count
