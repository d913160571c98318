"""Distillation in transformers' own Trainer: a small GPT-2 learns Python from a larger one and from its own texts.

The text is the standard library that runs this file and the models are built from configurations, so nothing is
downloaded. A trained teacher would be the folder where `save_pretrained` put it.

    pip install 'limbeck[text]' && python examples/trainer.py
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from limbeck import CE, DistillationTrainer, Objective, find
from limbeck.data.text import Bytes, Tokens, python_source


def blocks(texts: list[str], count: int, length: int = 64) -> list[dict[str, Tensor]]:
    """Evenly spaced pieces, as Trainer takes its examples."""
    ids = Tokens.packed(texts, Bytes(), length).x["input_ids"]
    chosen = ids[torch.linspace(0, len(ids) - 1, count).long()]
    return [{"input_ids": row, "labels": row} for row in chosen]


def gpt2(width: int, layers: int) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=Bytes.vocab_size,
        n_embd=width,
        n_layer=layers,
        n_head=width // 16,
        n_positions=64,
        bos_token_id=Bytes.end,
        eos_token_id=Bytes.end,
    )
    return GPT2LMHeadModel(config)


def fit(student: Any, method: Objective, folder: str, train: Any, test: Any, teacher: Any = None) -> float:
    """The loss of the student on the test texts, in nats per byte."""
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        num_train_epochs=4,
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
    )
    DistillationTrainer(student, arguments, method=method, teacher=teacher, train_dataset=train).train()
    judge = DistillationTrainer(student, arguments, method=CE(), train_dataset=train, eval_dataset=test)
    return float(judge.evaluate()["eval_loss"])


def main(examples: int = 1000) -> dict[str, float]:
    train, test = (blocks(texts, n) for texts, n in zip(python_source(), (examples, 200), strict=True))
    torch.manual_seed(0)
    teacher, student, alone = gpt2(64, 2), gpt2(32, 1), gpt2(32, 1)
    alone.load_state_dict(student.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        loss = {"teacher": fit(teacher, CE(), folder, train, test)}
        teacher.save_pretrained(f"{folder}/teacher")
        loss["student alone"] = fit(alone, CE(), folder, train, test)
        method = CE() + find("gkd")(beta=0.1, rate=0.1, prompt=32)
        loss["student taught"] = fit(student, method, folder, train, test, teacher=f"{folder}/teacher")
    for name, nats in loss.items():
        print(f"{name:15} {nats:.3f} nats per byte")
    return loss


if __name__ == "__main__":
    main()
