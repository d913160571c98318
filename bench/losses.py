"""What each loss costs over plain KL: time of forward and backward, and extra memory.

    python -m bench.losses [--out bench/results/losses.json]

A loss and KL take turns on the same tensors. A repetition is the median of some calls; a ratio is the median over the
repetitions of the ratios within each. Memory is the most that is held at once beside the inputs, the gradient and what
operators need within included, as the allocator reports it to torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import limbeck.losses
from bench.step import commit, ratio, rounded
from tests import strategies
from tests.strategies import LOSSES, Loss

strategies.losses = limbeck.losses  # the tests' own copy checks shapes at every call

SHAPES = {"small": (256, 1000), "large": (4096, 32_000)}
MAPS = {1000: (10, 10, 10), 32_000: (32, 25, 40)}  # as many numbers per example
LIMIT = 3.0  # a ratio above has a reason
MOST = 6 * 2**30  # bytes of a call with its inputs; a loss that needs more is measured on half the rows, and so on

#: As far as the rows see each other in more than sums over them: so many of the large shape.
ROWS = {"rkd_angle": 64, "rkd_distance": 512, "sinkhorn_distance": 256}

REASONS = {
    "aldr": "normalises each row three times: for lambda, the scores and the loss",
    "anyloss": "two steep sigmoids, for yes and for no, and four sums of products",
    "dice": "(1 - p)^alpha of every class, exact for sure rows: a logarithm, an exponential, a second normalisation",
    "dice_set": "one logistic function and two exponentials for every class, and a target matrix to make",
    "dist": "means, lengths and products of all rows and all columns",
    "dkd": "two divergences: each row is normalised with the label and without it",
    "jsd": "a logarithm for every class, and a gradient through both divergences",
    "ldr": "softplus and its logarithm for every class before the loss, which normalises the row again",
    "noisy_kl": "two noisy passes: a KL each, and a gradient through both",
    "nst": "products of all pairs of neurons, or of places: 3 of them, and b c^2 numbers where KL has b c",
    "nt_xent": "cosines of all pairs of 2 b rows: 4 b^2 d products",
    "plackett_luce": "torch.logcumsumexp goes one number at a time: once forward, twice backward",
    "pld": "sorts each row, then as plackett_luce",
    "rkd_angle": "angles at each example between all pairs of others: b^3 numbers from b^3 d products",
    "rkd_distance": "distances of all pairs: b^2 d products",
    "sinkhorn_distance": "L1 distances of all pairs: b^2 c absolute differences, 65 million at (256, 1000), where KL "
    "has b c = 0.26 million numbers, 3.5 times the milliseconds of all of KL even when torch.compile makes one pass of "
    "them; then their gradient, and 20 rounds that keep (b, b) numbers each",
    "skew_kl": "a logarithm for every class beside the exponential",
    "uld": "sorts each row of both models",
}


def measured() -> dict[str, Loss]:
    """One way of calling each function, and those whose target is a distribution over the classes."""
    ways: dict[str, Loss] = {}
    for name, loss in LOSSES.items():
        if name.endswith("/soft") or function(name) not in map(function, ways):
            ways[name] = loss
    return ways


def function(name: str) -> str:
    return name.split("/")[0]


def plain(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """KL as one writes it by hand."""
    return F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), reduction="none", log_target=True).sum(-1)


KL = Loss("logits", plain)


def example(loss: Loss, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, *MAPS[columns]) if loss.kind == "maps" else (rows, columns)
    s, t = (torch.randn(shape, generator=generator) for _ in range(2))
    return s.requires_grad_(), t, torch.randint(columns, (rows,), generator=generator)


def learn(call: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> None:
    torch.autograd.grad(call(*batch).sum(), batch[0])


@cache
def peak(loss: Loss, rows: int, columns: int) -> int:
    """Bytes."""
    batch = example(loss, rows, columns)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        learn(loss.call, batch)
    held = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def fitting(name: str, loss: Loss, rows: int, columns: int) -> int:
    """The rows to take."""
    if rows * columns < 10**7:
        return rows
    each = peak(loss, 64, columns) / 64 + 8 * columns
    while each * rows > MOST:
        rows //= 2
    return ROWS.get(name, rows)


def timed(loss: Loss, batch: tuple[Tensor, ...]) -> float:
    """Milliseconds of the processor."""
    start = time.process_time()
    learn(loss.call, batch)
    return 1000 * (time.process_time() - start)


def measure(loss: Loss, rows: int, columns: int) -> dict[str, object]:
    memory = {"loss": peak(loss, rows, columns), "kl": peak(KL, rows, columns)}
    s, t, y = example(loss, rows, columns)
    batches = {"loss": (loss, (s, t, y)), "kl": (KL, (s.detach().flatten(1).requires_grad_(), t.flatten(1), y))}
    few = rows * columns > 10**7
    repetitions, calls = (2, 1) if few else (7, max(1, min(20, int(500 / timed(*batches["loss"])))))
    times: dict[str, list[float]] = {"loss": [], "kl": []}
    for _ in range(repetitions):
        turns = [{side: timed(*of) for side, of in batches.items()} for _ in range(calls)]
        for side, medians in times.items():
            medians.append(statistics.median(turn[side] for turn in turns))
    each = ratio(times, "loss", "kl")
    return {
        "shape": [rows, columns],
        "time": statistics.median(each),
        "memory": memory["loss"] / memory["kl"],
        "time_each": each,
        "ms": {side: statistics.median(medians) for side, medians in times.items()},
        "mib": {side: most / 2**20 for side, most in memory.items()},
        "repetitions": repetitions,
        "calls": calls,
    }


def written(out: Path, head: dict[str, object], rows: list[dict[str, object]], seconds: float) -> None:
    """The rows join those that the file has of the same machine."""
    before = json.loads(out.read_text()) if out.exists() else {}
    if any(before.get(name) != value for name, value in head.items()):
        before = {}
    kept = {(row["loss"], *row["shape"]): row for row in [*before.get("rows", []), *rows]}
    result = head | {"seconds": before.get("seconds", 0) + seconds, "rows": [kept[key] for key in sorted(kept)]}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".part")
    partial.write_text(json.dumps(rounded(result), indent=1) + "\n")
    os.replace(partial, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="these losses only")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--out", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)

    head = {
        "what": "forward and backward of each loss over plain KL: float32, gradient of the student alone",
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
    for name, loss in measured().items():
        for shape in args.shapes if name in (args.only or LOSSES) else ():
            start, (rows, columns) = time.perf_counter(), SHAPES[shape]
            row = {"loss": name, **measure(loss, fitting(name, loss, rows, columns), columns)}
            row |= {"commit": commit(), "load": os.getloadavg()[0], "reason": None}
            if max(row["time"], row["memory"]) > LIMIT:
                row["reason"] = REASONS.get(function(name), "")
            print(f"{name:24} {row['shape']!s:14} time {row['time']:7.2f}  memory {row['memory']:6.2f}", flush=True)
            if row["reason"] == "":
                print("    WITHOUT A REASON")
            if args.out:
                written(args.out, head, [row], time.perf_counter() - start)


if __name__ == "__main__":
    main()
