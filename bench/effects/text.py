"""The next character of Python's own standard library, from the eight before it: a language model small enough here.

A tenth of the files is held out. The teacher is eight times as wide as the student and knows eight times as much text.
"""

from __future__ import annotations

import copy
import string
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.effects.core import objective, score
from bench.effects.toys import fit, told
from limbeck import AdamW, Cosine, Data, Run

CONTEXT, CHARACTERS = 8, string.printable
KNOWN, SEEN, HELD_OUT = 400_000, 50_000, 20_000

TEXT = {
    "data": f"next character of Python's standard library, {CONTEXT} known",
    "teacher": f"MLP of 512, 3 epochs of {KNOWN} places",
    "student": f"MLP of 64, 4 epochs of the labels of {SEEN} places, then 4 of the method",
    "batch_size": 256,
    "optimizer": "AdamW(Cosine(0.004)), for the method AdamW(Cosine(0.001))",
    "test": f"{HELD_OUT} places of other files",
}
LEARNING = {"batch_size": 256, "optimizer": AdamW(Cosine(0.004))}
FURTHER = {"batch_size": 256, "optimizer": AdamW(Cosine(0.001))}


@cache
def characters() -> tuple[Tensor, Tensor]:
    """Places in CHARACTERS of the training and of the held-out files' text; other characters are left out."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    place = {character: i for i, character in enumerate(CHARACTERS)}
    parts: tuple[list[int], list[int]] = [], []
    for i, file in enumerate(files):
        parts[i % 10 == 0].extend(place[c] for c in file.read_text(encoding="utf-8") if c in place)
    return torch.tensor(parts[0]), torch.tensor(parts[1])


def windows(n: int, seed: int, *, test: bool = False) -> Data:
    """n random places of the text: x (n, CONTEXT), y (n,) the character that follows."""
    text = characters()[test].unfold(0, CONTEXT + 1, 1)
    ids = torch.randperm(len(text), generator=torch.Generator().manual_seed(seed))[:n]
    return Data(text[ids, :-1], text[ids, -1], classes=len(CHARACTERS))


def model(width: int, seed: int) -> nn.Sequential:
    """(b, CONTEXT) -> (b, len(CHARACTERS)), as in Bengio et al. 2003."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(len(CHARACTERS), 16),
        nn.Flatten(),
        nn.Linear(16 * CONTEXT, width),
        nn.ReLU(),
        nn.Linear(width, len(CHARACTERS)),
    )


@cache
def teacher() -> Run:
    places = windows(KNOWN, 1_000_000)
    return fit(model(512, 1_000_000), objective("supervised"), places, epochs=3, seed=1_000_000, **LEARNING)


@cache
def warm(seed: int) -> nn.Module:
    """A student that knows the labels already, as language models do before they are distilled."""
    run = fit(model(64, seed), objective("supervised"), windows(SEEN, seed), epochs=4, seed=seed, **LEARNING)
    return run.students[0]


@cache
def logits(method: str, seed: int) -> Tensor:
    """What the student says of the held-out places, (HELD_OUT, characters), after 4 epochs more by the method."""
    places = windows(SEEN, seed)
    student = copy.deepcopy(warm(seed))
    run = fit(student, objective(method), places, epochs=4, seed=seed, teacher=told(teacher(), places), **FURTHER)
    return run.predict(run.students[0], held_out())


@cache
def held_out() -> Data:
    return windows(HELD_OUT, 0, test=True)


def figure(name: str, method: str, seed: int) -> float:
    """A `score` on the held-out places."""
    return score(logits(method, seed), held_out().y, name)
