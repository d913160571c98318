"""What each loss costs over plain KL: time of forward and backward, and extra memory.

    python -m bench.losses [--out bench/results/losses.json]

A loss and KL take turns on the same tensors. A repetition is the median of some calls; a ratio is the median over the
repetitions of the ratios within each. Memory is the most that is allocated at once beyond the inputs, the gradient and
what the operators need within among it, as the allocator reports it to torch's profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import limbeck.losses
from bench.step import commit, ratio, rounded
from tests import strategies

strategies.losses = limbeck.losses  # the tests' copy checks shapes at every call

SMALL, LARGE = (256, 1000), (4096, 32_000)
MAPS = {1000: (10, 10, 10), 32_000: (32, 25, 40)}
LIMIT = 3.0  # what is above it has a reason
MOST = 6 * 2**30  # bytes of one call with its inputs

#: Where the rows see each other, of the large shape so many are taken; others lose half of theirs until they fit.
ROWS = {"rkd_angle": 64, "rkd_distance": 512, "sinkhorn_distance": 256}

REASONS: dict[str, str] = {}


def chosen() -> dict[str, strategies.Loss]:
    """One entry per function, and those whose target is a distribution over the classes."""
    entries: dict[str, strategies.Loss] = {}
    for name, loss in strategies.LOSSES.items():
        if name.endswith("/soft") or name.split("/")[0] not in {taken.split("/")[0] for taken in entries}:
            entries[name] = loss
    return entries


def plain(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """KL as one writes it by hand."""
    return F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), reduction="none", log_target=True).sum(-1)


def given(loss: strategies.Loss, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, *MAPS[columns]) if loss.kind == "maps" else (rows, columns)
    s, t = (torch.randn(shape, generator=generator) for _ in range(2))
    return s.requires_grad_(), t, torch.randint(columns, (rows,), generator=generator)


def learn(call: Callable[..., Tensor], s: Tensor, t: Tensor, y: Tensor) -> None:
    torch.autograd.grad(call(s, t, y).sum(), s)


def peak(call: Callable[..., Tensor], *batch: Tensor) -> int:
    """Bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        learn(call, *batch)
    held = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def fitting(name: str, loss: strategies.Loss, columns: int) -> int:
    """How many rows of the large shape to take."""
    if name in ROWS:
        return ROWS[name]
    few, rows = given(loss, 64, columns), LARGE[0]
    each = (peak(loss.call, *few) + sum(part.nbytes for part in few)) / 64
    while each * rows > MOST:
        rows //= 2
    return rows


def timed(call: Callable[..., Tensor], *batch: Tensor) -> float:
    """Milliseconds of the processor."""
    start = time.process_time()
    learn(call, *batch)
    return 1000 * (time.process_time() - start)


def measure(loss: strategies.Loss, rows: int, columns: int, repetitions: int) -> dict[str, object]:
    batch = given(loss, rows, columns)
    flat = [part.detach().flatten(1) for part in batch[:2]]
    sides = {"loss": (loss.call, *batch), "kl": (plain, flat[0].requires_grad_(), flat[1], batch[2])}
    bytes_ = {side: peak(*of) for side, of in sides.items()}
    calls = max(1, min(20, int(500 / timed(*sides["loss"])))) if rows * columns < 10**7 else 1
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repetitions):
        turns = [{side: timed(*of) for side, of in sides.items()} for _ in range(calls)]
        for side, medians in times.items():
            medians.append(statistics.median(turn[side] for turn in turns))
    each = ratio(times, "loss", "kl")
    return {
        "shape": [rows, columns],
        "calls": [repetitions, calls],
        "ms": statistics.median(times["loss"]),
        "kl_ms": statistics.median(times["kl"]),
        "time": statistics.median(each),
        "time_each": each,
        "mib": bytes_["loss"] / 2**20,
        "kl_mib": bytes_["kl"] / 2**20,
        "memory": bytes_["loss"] / bytes_["kl"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="these losses only")
    parser.add_argument("--small", action="store_true", help="the small shape only")
    parser.add_argument("--large", action="store_true", help="the large shape only")
    parser.add_argument("--out", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)

    start, found = time.perf_counter(), []
    for name, loss in chosen().items():
        if args.only and name not in args.only:
            continue
        runs = [(SMALL, 7)] if not args.large else []
        if not args.small or args.large:
            runs.append(((fitting(name, loss, LARGE[1]), LARGE[1]), 2))
        for shape, repetitions in runs:
            row = {"loss": name, **measure(loss, *shape, repetitions)}
            row["reason"] = REASONS.get(name) if max(row["time"], row["memory"]) > LIMIT else None
            found.append(row)
            missing = max(row["time"], row["memory"]) > LIMIT and not row["reason"]
            print(
                f"{name:24} {tuple(row['shape'])!s:14} time {row['time']:6.2f} memory {row['memory']:6.2f}  "
                f"{'NO REASON' if missing else row['reason'] or ''}",
                flush=True,
            )
    result = {
        "what": "forward and backward of each loss over plain KL, float32, gradient of the student only",
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "seconds": time.perf_counter() - start,
        "rows": found,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
