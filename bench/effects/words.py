"""Images of digits as sentences, for transformers small enough here: four neighbouring pixels, black or white, are one
of 16 words, and an image is 16 of them behind a start.

Language models of all 1,437 training images are pre-trained without labels, as models of general text are. A second
language has the same images moved to the right by a pixel.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.effects.toys import fit
from limbeck import CE, AdamW, Cosine, Data, Output
from limbeck.data import load
from limbeck.models.gpt import GPT

START, SEPARATOR, VOCABULARY, LENGTH = 16, 17, 18, 17
LEARNING = {"optimizer": AdamW(Cosine(0.004)), "batch_size": 64}
WORDS = {
    "data": "digits as 16 words of 4 pixels in black and white",
    "teacher": "GPT of 4 blocks of 48, 4 epochs of next words of both languages, then 8 of all labels of the first",
    "student": "GPT of 2 blocks of 32",
    "batch_size": 64,
    "optimizer": "AdamW(Cosine(0.004)) in each stage",
}


@cache
def images(test: bool = False, shift: int = 0) -> tuple[Tensor, Tensor]:
    """Sentences (n, LENGTH) and labels (n,), the images moved to the right by some pixels."""
    part = load("digits")[test]
    black = (part.x[:, 0].float() > part.x.max() / 2).roll(shift, 2)
    ids = (black.reshape(len(black), -1, 4) * torch.tensor([8, 4, 2, 1])).sum(-1)
    return torch.cat([torch.full((len(ids), 1), START), ids], 1), part.y


def sentences(ids: Tensor) -> Data:
    """Every word is to be predicted."""
    return Data({"input_ids": ids}, ids, classes=VOCABULARY)


def labelled(ids: Tensor, y: Tensor | None = None) -> Data:
    return Data({"input_ids": ids}, y, classes=10)


def held_out(shift: int = 0) -> Data:
    return labelled(*images(True, shift))


def some(n: int, seed: int) -> tuple[Tensor, Tensor]:
    ids, y = images()
    chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:n]
    return ids[chosen], y[chosen]


def gpt(width: int, depth: int, seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(VOCABULARY, width=width, depth=depth, heads=2)


class Reader(nn.Module):
    """Tells the digit from the state of the last word."""

    def __init__(self, body: GPT, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.config = body, body.config
        self.fc = nn.Linear(body.embed.weight.shape[1], 10)

    def forward(self, input_ids: Tensor) -> Output:
        output = self.body(input_ids)
        last = output.embedding[:, -1]
        return Output({**output.signals, ".embedding": last, ".logits": self.fc(last)})


def learnt(student: nn.Module, method: Any, data: Data, *, epochs: int, seed: int, **fields: Any) -> nn.Module:
    return fit(student, method, data, epochs=epochs, seed=seed, **{**LEARNING, **fields}).students[0].module


@cache
def pre_trained() -> GPT:
    """A large language model of both languages."""
    return learnt(gpt(48, 4, 1_000_000), CE(), sentences(both_languages()), epochs=4, seed=1_000_000)


def both_languages() -> Tensor:
    return torch.cat([images()[0], images(shift=1)[0]])


@cache
def tuned(*, both: bool = False) -> Reader:
    """It, fine-tuned on all labels of the images as they are, or of both languages."""
    ids, y = (both_languages(), images()[1].repeat(2)) if both else images()
    student = Reader(copy.deepcopy(pre_trained()), 1_000_000)
    return learnt(student, CE(), labelled(ids, y), epochs=6 if both else 8, seed=1_000_000)
