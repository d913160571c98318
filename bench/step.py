"""What one Limbeck step costs over a loop written by hand.

    python bench/step.py [--out bench/results/step.json]

The runners take turns, one step each and in a new random order every turn, so the machine's drift hits all alike. A
repetition is the median of 20 steps; a ratio is the median over the repetitions of the ratios within each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck
from limbeck.models.cnn import conv_bn_relu

HERE = Path(__file__).parent
BATCH, CLASSES, TAU, ALPHA = 128, 100, 4.0, 0.9
PAIRS = {"mid": (32, 8), "small": (4, 2)}  # base widths of teacher and student
BANKS = {"10k": 10_000, "60k": 60_000}  # examples; a bank has a row for each
#: (pair, numerator, denominator): the most that the ratio of CPU times may be.
LIMITS = {
    ("mid", "kd/limbeck", "kd/bare"): 1.03,
    ("small", "kd/limbeck", "kd/bare"): 1.08,
    ("mid", "supervised/limbeck", "supervised/bare"): 1.03,
    ("small", "supervised/limbeck", "supervised/bare"): 1.08,
    ("mid", "crd/60k", "kd/limbeck"): 1.3,
    ("mid", "crd/10k", "kd/limbeck"): 1.3,
}
#: Shown without a limit.
OTHERS = [
    ("small", "crd/60k", "kd/limbeck"),
    ("small", "crd/10k", "kd/limbeck"),
    ("mid", "crd/60k", "kd/bare"),
    ("small", "crd/60k", "kd/bare"),
]


def net(width: int) -> nn.Sequential:
    """(b, 1, 28, 28) -> (b, 100): four convolutions, the maps 28, 14, 14 and 7 wide."""
    bottom = conv_bn_relu(1, width), conv_bn_relu(width, 2 * width, 2), conv_bn_relu(2 * width, 2 * width)
    top = conv_bn_relu(2 * width, 4 * width, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, CLASSES)
    return nn.Sequential(*bottom, *top)


def examples(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def bare(student: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor) -> Iterator[None]:
    """The loop as one writes it by hand; with each `next`, one step."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    student.train()
    if teacher is not None:
        teacher.eval()
    while True:
        for index in torch.randperm(len(x)).split(BATCH):
            images, labels = x[index].float() / 255, y[index]
            s = student(images)
            loss = F.cross_entropy(s, labels)
            if teacher is not None:
                with torch.inference_mode():
                    p = F.log_softmax(teacher(images) / TAU, -1)
                soft = F.kl_div(F.log_softmax(s / TAU, -1), p, reduction="batchmean", log_target=True)
                loss = (1 - ALPHA) * loss + ALPHA * TAU**2 * soft
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield


def with_limbeck(
    method: limbeck.Objective, student: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor
) -> Iterator[None]:
    return steps(limbeck.Run(
        student=student, teacher=teacher, data=(x, y), method=method, batch_size=BATCH, optimizer=limbeck.SGD(0.05),
        accelerator="cpu", epochs=10**4,
    ))  # fmt: skip


def steps(run: limbeck.Run) -> Iterator[None]:
    """The steps of a run, epoch by epoch; with each `next`, one."""
    run.setup()
    while True:
        yield from run.train_epoch(threading.Event())


def runners(widths: tuple[int, int]) -> dict[str, Iterator[None]]:
    """Each with models of its own, all with the same weights."""
    state_t, state_s = net(widths[0]).state_dict(), net(widths[1]).state_dict()

    def teacher() -> nn.Module:
        model = net(widths[0])
        model.load_state_dict(state_t)
        return model

    def student() -> nn.Module:
        model = net(widths[1])
        model.load_state_dict(state_s)
        return model

    data = {name: examples(n) for name, n in BANKS.items()}
    kd, crd = limbeck.kd(tau=TAU, alpha=ALPHA), limbeck.crd(beta=0.8, negatives=1024)
    turns = {
        "kd/bare": bare(student(), teacher(), *data["60k"]),
        "kd/limbeck": with_limbeck(kd, student(), teacher(), *data["60k"]),
        "supervised/bare": bare(student(), None, *data["60k"]),
        "supervised/limbeck": with_limbeck(limbeck.supervised(), student(), None, *data["60k"]),
    }
    return turns | {f"crd/{name}": with_limbeck(crd, student(), teacher(), *data[name]) for name in BANKS}


def measure(turns: dict[str, Iterator[None]], repetitions: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds per runner, one median per repetition: {"cpu": {runner: [...]}, "wall": ...}."""
    order, dice = list(turns), random.Random(0)
    for name in order * 3:
        next(turns[name])
    medians: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in turns} for clock in ("cpu", "wall")}
    for _ in range(repetitions):
        times: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in turns} for clock in medians}
        for _ in range(steps):
            dice.shuffle(order)
            for name in order:
                cpu, wall = time.process_time(), time.perf_counter()
                next(turns[name])
                times["cpu"][name].append(time.process_time() - cpu)
                times["wall"][name].append(time.perf_counter() - wall)
        for clock, each in times.items():
            for name, seconds in each.items():
                medians[clock][name].append(1000 * statistics.median(seconds))
    return medians


def ratio(medians: dict[str, list[float]], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(medians[over], medians[under], strict=True)]


def rounded(value: Any) -> Any:
    """All numbers in it to four places."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def commit() -> str:
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=HERE, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "../src") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", help="these runners only, e.g. kd/bare kd/limbeck")
    parser.add_argument("--out", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)

    result = {
        "what": "milliseconds per step on 1 thread, batch 128, 1x28x28 in 100 classes, SGD with momentum",
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "load": os.getloadavg()[0],
        "torchdistill": "not installed" if find_spec("torchdistill") is None else "installed, not measured",
        "repetitions": args.repetitions,
        "steps": args.steps,
        "pairs": {},
        "ratios": [],
    }
    for pair in args.pairs:
        turns = {name: run for name, run in runners(PAIRS[pair]).items() if not args.only or name in args.only}
        medians = measure(turns, args.repetitions, args.steps)
        result["pairs"][pair] = medians
        print(f"\n{pair}: teacher width {PAIRS[pair][0]}, student width {PAIRS[pair][1]}")
        print(f"  {'runner':20} {'cpu ms':>8} {'wall ms':>8}")
        for name in turns:
            cpu, wall = (statistics.median(medians[clock][name]) for clock in ("cpu", "wall"))
            print(f"  {name:20} {cpu:8.2f} {wall:8.2f}")
        for where, over, under in [*LIMITS, *OTHERS]:
            if where != pair or over not in turns or under not in turns:
                continue
            cpu, wall = (ratio(medians[clock], over, under) for clock in ("cpu", "wall"))
            row = {"pair": pair, "of": over, "over": under, "cpu": statistics.median(cpu), "cpu_each": cpu}
            row |= {"wall": statistics.median(wall), "limit": LIMITS.get((pair, over, under))}
            result["ratios"].append(row)
            print(
                f"  {over} : {under}  cpu {row['cpu']:.3f} [{min(cpu):.3f}, {max(cpu):.3f}]  wall {row['wall']:.3f}",
                end="",
            )
            print(
                ""
                if row["limit"] is None
                else f"  {'meets' if row['cpu'] <= row['limit'] else 'MISSES'} {row['limit']}"
            )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
