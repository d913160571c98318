"""Methods that learn on what the student writes itself: how far it then is from the teacher in its own texts."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import Tensor, nn

from bench.effects.checks.tokenizers import characters, teacher, texts
from bench.effects.core import FRESH, Arms, check, objective
from bench.effects.toys import fit
from limbeck import CE, KL, AdamW, Cosine, Objective
from limbeck.data.text import Tokens
from limbeck.generate import generate
from limbeck.language import scores
from limbeck.losses import reverse_kl
from limbeck.models.gpt import GPT

SEEN, LENGTH, PROMPT, JUDGED = 80_000, 40, 8, 256

OWN = {
    "data": f"Python's standard library, {SEEN} characters in blocks of {LENGTH}; prompts of {PROMPT} characters",
    "teacher": "GPT of characters, width 64, depth 3, one epoch of 1,000,000 characters",
    "student": "GPT of characters, width 32, depth 2; 2 epochs of the labels, then 1 of the method",
    "batch_size": 16,
    "optimizer": "AdamW(Cosine(0.005)), for the method AdamW(Cosine(0.002)); clip=1.0",
    "test": f"{JUDGED} texts that the student writes to prompts of other files",
}
FIGURE = {"figure": "KL(student || teacher) per character of its own texts, nats", "better": -1, "settings": OWN}


@cache
def data() -> Tokens:
    return Tokens.packed([texts()[0][:SEEN]], characters(), LENGTH)


@cache
def warm(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    student = GPT(characters().vocab_size, width=32, depth=2, heads=4)
    learning = {"optimizer": AdamW(Cosine(0.005)), "clip": 1.0, "batch_size": 16}
    return fit(student, CE(), data(), epochs=2, seed=seed, **learning).students[0].module


@cache
def reached(method: Objective, seed: int) -> dict[str, float]:
    learning = {"optimizer": AdamW(Cosine(0.002)), "clip": 1.0, "batch_size": 16}
    taught = {} if method == CE() else {"teacher": copy.deepcopy(teacher())}
    run = fit(copy.deepcopy(warm(seed)), method, data(), epochs=1, seed=seed, **taught, **learning)
    test = Tokens.packed([texts()[1]], characters(), LENGTH)
    return {"own": own(run.students[0].module), "bits": scores(run.students[0], test)["bits_per_byte"]}


def own(student: nn.Module) -> float:
    """Mean divergence over the characters of texts that it writes."""
    prompts = Tokens.packed([texts()[1]], characters(), LENGTH).x["input_ids"][:JUDGED, :PROMPT]
    lengths = torch.full((len(prompts),), PROMPT)
    chance = torch.Generator().manual_seed(0)
    ids, ends = generate(student, prompts, lengths, new=LENGTH - PROMPT, end=characters().end, generator=chance)
    place = torch.arange(LENGTH - 1)
    said = (place >= PROMPT - 1) & (place < ends[:, None] - 1)
    with torch.no_grad():
        rows: list[Tensor] = [model.eval()(ids).logits[:, :-1][said] for model in (student, teacher())]
    return float(reverse_kl(*rows).mean())


def arms(method: str, baseline: Objective, seed: int) -> Arms:
    found = {"method": reached(objective(method), seed), "baseline": reached(baseline, seed)}
    found |= {"supervised": reached(CE(), seed)}
    return {name: each["own"] for name, each in found.items()} | {
        f"{name}, bits per byte of other files": each["bits"] for name, each in found.items()
    }


@check(
    "gkd",
    baseline="jsd(beta=0.5)",
    claim="its own texts are closer to the teacher's than after the data's",
    seeds=FRESH,
    **FIGURE,
)
def gkd(seed: int) -> Arms:
    return arms(f"gkd(rate=1.0, prompt={PROMPT})", objective("jsd(beta=0.5)"), seed)


@check("minillm", baseline="KL(1.0)", claim="its own texts are closer to the teacher's", seeds=FRESH, **FIGURE)
def minillm(seed: int) -> Arms:
    return arms(f"minillm(prompt={PROMPT})", KL(1.0), seed)


@check("distillm", baseline="KL(1.0)", claim="its own texts are closer to the teacher's", seeds=FRESH, **FIGURE)
def distillm(seed: int) -> Arms:
    return arms(f"distillm(prompt={PROMPT})", KL(1.0), seed)
