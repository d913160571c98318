"""Methods for a teacher that cuts texts into other tokens, and for texts of several domains, on the source of Python's
standard library."""

from __future__ import annotations

import copy
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import nn

from bench.effects.core import Arms, check, objective
from bench.effects.toys import fit
from limbeck import CE, AdamW, Cosine, Objective, Run
from limbeck.data.paired import Paired
from limbeck.data.text import BPE, Bytes, Characters, Tokens, python_source
from limbeck.language import scores
from limbeck.models.gpt import GPT
from limbeck.procedures.domains import Mixture

KNOWN, SEEN, HELD_OUT, LENGTH = 1_000_000, 80_000, 40_000, 40

SETTINGS = {
    "data": f"Python's standard library; {SEEN} characters of it for the student, {HELD_OUT} of other files to test",
    "teacher": f"GPT of characters, width 64, depth 3, one epoch of {KNOWN} characters",
    "student": "GPT of 400 tokens (BPE), width 32, depth 2",
    "epochs": 4,
    "batch_size": f"16 blocks of {LENGTH} tokens",
    "optimizer": "AdamW(Cosine(0.005)), clip=1.0",
}
LEARNING = {"optimizer": AdamW(Cosine(0.005)), "clip": 1.0}


@cache
def texts() -> tuple[str, str]:
    train, test = python_source()
    return "\n".join(train[::3])[:KNOWN], "\n".join(test)[:HELD_OUT]


@cache
def characters() -> Characters:
    return Characters("".join(texts()))


@cache
def tokens() -> BPE:
    return BPE.train([texts()[0][:SEEN]], 400)


@cache
def teacher() -> nn.Module:
    torch.manual_seed(1_000_000)
    model = GPT(characters().vocab_size, width=64, depth=3, heads=4)
    data = Tokens.packed([texts()[0]], characters(), 160)
    return fit(model, CE(), data, epochs=1, seed=1_000_000, batch_size=16, **LEARNING).students[0].module


@cache
def data() -> Paired:
    return Paired.packed([texts()[0][:SEEN]], tokens(), LENGTH, teacher=characters())


@cache
def held_out() -> Tokens:
    return Tokens.packed([texts()[1]], tokens(), LENGTH)


@cache
def bits(method: Objective, seed: int) -> float:
    """Held-out bits per byte of a student."""
    torch.manual_seed(seed)
    student = GPT(tokens().vocab_size, width=32, depth=2, heads=4)
    run: Run = fit(
        student, method, data(), teacher=copy.deepcopy(teacher()), epochs=4, seed=seed, batch_size=16, **LEARNING
    )
    return scores(run.students[0], held_out())["bits_per_byte"]


FIGURE = {"baseline": "supervised", "figure": "held-out bits per byte", "better": -1, "settings": SETTINGS}


@check("alm", claim="better than labels alone, with a teacher of another tokenizer", **FIGURE)
def alm(seed: int) -> Arms:
    return {
        "method": bits(objective("alm"), seed),
        "baseline": bits(CE(), seed),
        "without merge": bits(objective("alm(weight=100.0, merge=None)"), seed),
    }


@check("uld", claim="better than labels alone, with a teacher of another tokenizer", **FIGURE)
def uld(seed: int) -> Arms:
    return {"method": bits(objective("uld"), seed), "baseline": bits(CE(), seed)}


@check("mined", claim="better than labels alone, with a teacher of another tokenizer", **FIGURE)
def mined(seed: int) -> Arms:
    return {"method": bits(objective("mined"), seed), "baseline": bits(CE(), seed)}


# --- DDK: packages of the standard library -------------------------------------------------------------------------

PACKAGES = ("asyncio", "email", "encodings", "pydoc_data", "unittest")
BLOCKS, BLOCK = 320, 64  # of bytes, of each package

MIXED = {
    "data": f"{BLOCKS} blocks of {BLOCK} bytes of each of {', '.join(PACKAGES)}; 60 others of each to test, 40 for DDK",
    "teacher": "GPT of bytes, width 64, depth 3, 600 steps",
    "student": "GPT of bytes, width 32, depth 2; 300 steps of the labels of all packages alike, then 300",
    "epochs": "6 of 50 steps; the baseline 3 of 100, which is all blocks three times",
    "batch_size": 16,
    "optimizer": "AdamW(Cosine(0.005)), clip=1.0",
}


@cache
def packages() -> list[Tokens]:
    """All blocks of each package, shuffled."""
    found = []
    for name in PACKAGES:
        files = sorted((Path(sysconfig.get_path("stdlib")) / name).glob("*.py"))
        data = Tokens.packed([file.read_text(encoding="utf-8") for file in files], Bytes(), BLOCK)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        found.append(blocks(data.x["input_ids"][order]))
    return found


def blocks(ids: torch.Tensor) -> Tokens:
    return Tokens({"input_ids": ids}, ids, Bytes())


def part(first: int, last: int) -> list[Tokens]:
    return [blocks(package.x["input_ids"][first:last]) for package in packages()]


@cache
def domains() -> tuple[Tokens, torch.Tensor]:
    parts = part(100, 100 + BLOCKS)
    number = torch.cat([torch.full((len(each),), i) for i, each in enumerate(parts)])
    return blocks(torch.cat([each.x["input_ids"] for each in parts])), number


@cache
def knower() -> nn.Module:
    """Has seen all blocks of the packages but the held-out ones, as often from each."""
    torch.manual_seed(1_000_000)
    model = GPT(Bytes.vocab_size, width=64, depth=3, heads=4)
    data = blocks(torch.cat([each.x["input_ids"] for each in part(100, 2000)]))
    epochs = -(-600 * 16 // len(data))
    return fit(model, CE(), data, epochs=epochs, seed=1_000_000, batch_size=16, **LEARNING).students[0].module


@cache
def warm(seed: int) -> nn.Module:
    """A student that knows all domains a little, as language models do before they are distilled."""
    torch.manual_seed(seed)
    model = GPT(Bytes.vocab_size, width=32, depth=2, heads=4)
    return fit(model, CE(), domains()[0], epochs=3, seed=seed + 1000, batch_size=16, **LEARNING).students[0].module


@check(
    "ddk",
    baseline="the same loss on all domains alike",
    claim="better where the student is worst",
    figure="held-out bits per byte of the worst domain",
    better=-1,
    settings=MIXED,
)
def ddk(seed: int) -> Arms:
    data, number = domains()
    given = {"data": data, "method": objective("ddk"), "batch_size": 16, "seed": seed, "accelerator": "cpu", **LEARNING}
    arms = {}
    for arm in ("method", "baseline"):
        models = {"student": copy.deepcopy(warm(seed)), "teacher": copy.deepcopy(knower())}
        if arm == "method":
            run: Run = Mixture(domain=number, held_out=part(60, 100), steps=50, epochs=6, **models, **given)
        else:
            run = Run(epochs=3, **models, **given)
        run.fit()
        found = [scores(run.students[0], each)["bits_per_byte"] for each in part(0, 60)]
        arms |= {arm: max(found), f"{arm}: mean": sum(found) / len(found)}
    return arms
