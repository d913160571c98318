"""Hugging Face models as they are: a tiny BERT teaches a tinier one which package a line of Python is from.

The student has a tenth of the labels, and learns from what the teacher says of all lines. The text is the standard
library that runs this file and the models are built from configurations, so nothing is downloaded.

    pip install 'limbeck[text]' && python examples/huggingface.py
"""

from __future__ import annotations

import random
import re
import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig

import limbeck
from limbeck import Data, Objective, Run, Step
from limbeck.objective import Reads

PACKAGES = ("asyncio", "ctypes", "email", "multiprocessing", "unittest", "xml")
VOCABULARY, LENGTH = 4096, 24


def lines(package: str) -> list[str]:
    """The package's different lines that say something, in random order."""
    files = sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py"))
    texts = {line.strip(): None for file in files for line in file.read_text(errors="ignore").splitlines()}
    chosen = [text for text in texts if len(text) > 24]
    random.Random(0).shuffle(chosen)
    return chosen


def tokens(line: str) -> list[int]:
    """Words and signs, hashed to numbers from 2; 1 begins a line and 0 is padding."""
    words = re.findall(r"[A-Za-z]+|\d|[^\w\s]", line)
    return [1, *(2 + zlib.crc32(word.encode()) % (VOCABULARY - 2) for word in words)][:LENGTH]


def text_data(texts: list[tuple[str, int]]) -> Data:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(tokens(line)) for line, _ in texts], batch_first=True)
    x = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    return Data(x, torch.tensor([label for _, label in texts]), classes=PACKAGES)


def load(examples: int) -> tuple[Data, Data]:
    """`examples` lines for training and a quarter of that for the test, of each package as many."""
    k = examples // len(PACKAGES)
    found = [lines(package)[: k + k // 4] for package in PACKAGES]
    parts = [
        [(line, i) for i, all_lines in enumerate(found) for line in all_lines[s]] for s in (slice(k), slice(k, None))
    ]
    return text_data(parts[0]), text_data(parts[1])


def bert(width: int, layers: int) -> nn.Module:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        max_position_embeddings=LENGTH,
        initializer_range=width**-0.5,
        num_labels=len(PACKAGES),
    )
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    return model


@dataclass(frozen=True)
class LastHidden(Objective):
    """The last hidden states, through a learnt map, against the teacher's: mean squared difference over the tokens that
    are no padding."""

    @property
    def reads(self) -> Reads:
        return frozenset({("student", ".hidden"), ("teacher", ".hidden")})

    def init(self, run: Run) -> nn.Module:
        configs: list[Any] = [run.students[0].module.config, run.teachers[0].net.module.config]
        return nn.Linear(*(config.hidden_size for config in configs))

    def loss(self, step: Step, state: Any) -> dict[str, Tensor]:
        student, teacher = step.student("x").hidden[-1], step.teacher("x").hidden[-1]
        mask = step.view("x")["attention_mask"]
        return {"hidden": ((state(student) - teacher).square().mean(-1) * mask).sum(1) / mask.sum(1)}


def fit(student: nn.Module, method: Objective, train: Data, test: Data, epochs: int, **settings: Any) -> float:
    run = Run(
        student=student,
        data=train,
        test=test,
        method=method,
        epochs=epochs,
        batch_size=32,
        optimizer=limbeck.AdamW(limbeck.Warmup(limbeck.Cosine(3e-3), share=0.1)),
        clip=1.0,
        accelerator="cpu",
        **settings,
    )
    return float(run.fit()[-1]["accuracy"])


def main(examples: int = 6000, epochs: int = 4, widths: tuple[int, int] = (64, 32), seed: int = 0) -> dict[str, float]:
    train, test = load(examples)
    torch.manual_seed(seed)
    teacher, student, alone = (bert(width, 1) for width in (*widths, widths[1]))
    alone.load_state_dict(student.state_dict())
    few = Data(train.x, limbeck.few_labels(train.y, examples // len(PACKAGES) // 10, seed=0), classes=PACKAGES)
    distil = limbeck.kd(tau=2.0, alpha=0.7) + 0.3 * LastHidden()
    accuracy = {
        "teacher": fit(teacher, limbeck.supervised(), train, test, epochs),
        "student alone": fit(alone, limbeck.supervised(), few, test, epochs),
        "student taught": fit(student, distil, few, test, epochs, teacher=teacher),
    }
    for name, share in accuracy.items():
        print(f"{name:15} {share:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
