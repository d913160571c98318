"""Language models judged: perplexity, bits per byte, agreement with the teacher; variety and speed of their texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.data import Batch
from limbeck.data.text import Tokens
from limbeck.errors import DataError, SettingError
from limbeck.evaluate import evaluating, synchronise
from limbeck.generate import generate
from limbeck.losses.logit import cross_entropy, kl
from limbeck.step import Player

__all__ = ["distinct", "scores", "speed"]


def scores(
    student: Any,
    data: Tokens,
    teacher: Any = None,
    *,
    batch_size: int = 32,
    move: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, float]:
    """How well the tokens that have a label are predicted, batch by batch: no logits of the whole data are kept.

    student, teacher: as in a run: `Net`s, or anything that answers with an `Output`. The student is run in eval mode.

    Returns:
        nll: mean negative log-likelihood of a token in nats. perplexity: exp(nll).
        bits_per_byte: nll of all tokens in bits, over the bytes that they stand for: comparable between tokenizers.
        accuracy: share of tokens that are the most probable one.
        agreement, kl, with a teacher: share of tokens where both have the same most probable one; mean
            KL(teacher || student) in nats.
    """
    sums: dict[str, float] = dict.fromkeys(("nll", "accuracy", "agreement", "kl"), 0.0)
    tokens = spelled = 0
    with evaluating(student), torch.no_grad():
        for raw in data.batches(list(torch.arange(data.num_examples).split(batch_size))):
            batch = move(raw)
            logits, y = Player(batch, "student", student)("x").logits, batch.row_labels
            assert y is not None
            tokens += len(y)
            spelled += int(data.token_bytes[y.cpu()].sum())
            best = logits.argmax(-1)
            sums["nll"] += float(cross_entropy(logits, y).double().sum())
            sums["accuracy"] += float((best == y).sum())
            if teacher is not None:
                said = Player(batch, "teacher", teacher)("x").logits
                sums["agreement"] += float((best == said.argmax(-1)).sum())
                sums["kl"] += float(kl(logits, said).double().sum())
    if not tokens:
        raise DataError("no token of the data has a label: nothing to score")
    found = {name: total / tokens for name, total in sums.items() if teacher is not None or name in ("nll", "accuracy")}
    bits = sums["nll"] / math.log(2) / spelled if spelled else math.nan
    return found | {"perplexity": math.exp(min(found["nll"], 700)), "bits_per_byte": bits}


def distinct(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of some sequences of tokens, in (0, 1] (Li et al. 2016, distinct-n)."""
    grams = [tuple(ids[i : i + n]) for ids in sequences for i in range(len(ids) - n + 1)]
    if not grams:
        raise SettingError(f"no sequence has {n} tokens: write longer ones, or take a smaller n")
    return len(set(grams)) / len(grams)


def speed(model: Any, prompts: Tensor, *, new: int = 64, repetitions: int = 3) -> float:
    """Tokens per second that a model writes for prompts (b, n): the median of some repetitions, after one untimed."""
    lengths = torch.full((len(prompts),), prompts.shape[1], device=prompts.device)
    seconds = []
    for _ in range(repetitions + 1):
        synchronise(prompts.device)
        start = time.perf_counter()
        generate(model, prompts, lengths, new=new, generator=torch.Generator().manual_seed(0))
        synchronise(prompts.device)
        seconds.append(time.perf_counter() - start)
    return len(prompts) * new / sorted(seconds[1:])[repetitions // 2]
