"""What a step of each method costs, relative to one of kd, in time and memory.

    OMP_NUM_THREADS=1 python -m bench.costs [METHOD ...]      # without names: all, into bench/results/costs.json

One job for all: scikit-learn's digits, student resnet8, teacher resnet8x2, 64 rows per step, each method with its own
defaults and the settings of its example. All methods take turns, as in bench/step.py. A method that owns a pipeline of
runs is measured in one of them; work that is done once in many steps, such as asking the teacher anew, is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.step import commit, measure, ratio, rounded, steps
from limbeck import UNLABELLED, Data, Run, registry
from limbeck.data.named import digits
from limbeck.experiment import write_whole
from limbeck.models import build
from limbeck.registry import Method
from tests.conformance import run_of

RESULT = Path(__file__).parent / "results/costs.json"
BATCH, REPETITIONS, STEPS = 64, 7, 10
EPOCHS = 1 + (3 + REPETITIONS * STEPS) * BATCH // 1437  # as long as is measured, so that schedules and stages run


def model(name: str) -> Callable[[int], torch.nn.Module]:
    return lambda _: build(name, channels=1, classes=10, size=8)


def job(method: Method) -> Run:
    """As many students and teachers as it needs; half of the examples without a label if it needs such."""
    train = digits()[0]
    y = train.y.clone()
    if "unlabelled" in method.needs:
        y[::2] = UNLABELLED
    made = method(**method.example)
    run = run_of(
        method, student=model("resnet8"), teacher=model("resnet8x2"), method=made, batch_size=BATCH, epochs=EPOCHS
    )
    run.data = Data(train.x, y, views=run.data.views, classes=10)
    return run


def peak(method: Method) -> float:
    """The most MiB of tensors alive at once, models and state too, from the start of a run through three steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        turn = steps(job(method))
        for _ in range(3):
            next(turn)
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.costs", description=__doc__)
    parser.add_argument("methods", nargs="*", help="beside kd; all of them by default")
    asked = parser.parse_args().methods
    torch.set_num_threads(1)
    methods = {m.name: m for m in registry.every() if not asked or m.name in {"kd", *asked}}
    memory = {name: peak(method) for name, method in methods.items()}
    cpu = measure({name: steps(job(method)) for name, method in methods.items()}, REPETITIONS, STEPS)["cpu"]
    found = {
        name: {
            "ms": statistics.median(cpu[name]),
            "time": statistics.median(ratio(cpu, name, "kd")),
            "mib": memory[name],
            "memory": memory[name] / memory["kd"],
        }
        for name in methods
    }
    for name, each in sorted(found.items(), key=lambda item: item[1]["time"]):
        print(f"{name:24} {each['ms']:8.2f} ms {each['time']:6.2f} {each['mib']:8.1f} MiB {each['memory']:6.2f}")
    result = {
        "what": "a step of 64 digits, resnet8 from resnet8x2, 1 thread: median ms of CPU time, peak MiB; ratios to kd",
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "load": os.getloadavg()[0],
        "repetitions": REPETITIONS,
        "steps": STEPS,
        "methods": found,
    }
    if not asked:
        write_whole(RESULT, json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
