"""What a step of each method costs, relative to one of kd, in time and memory.

    OMP_NUM_THREADS=1 python -m bench.costs [METHOD ...]      # without names: all, into bench/results/costs.json

One job for all: scikit-learn's digits, student resnet8, teacher resnet8x2, 64 rows per step, each method with its own
defaults and the settings of its example. Methods that need sequences have another one: the standard library's source,
16 blocks of 64 bytes per step, GPTs of 2 blocks of 32 and 64, and are compared with kd there. All methods take turns,
as in bench/step.py. A method that owns a pipeline of runs is measured in one of them; work that is done once in many
steps, such as asking the teacher anew, is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.step import commit, measure, ratio, rounded, steps
from limbeck import UNLABELLED, Data, Run, registry
from limbeck.data import View
from limbeck.data.named import digits
from limbeck.data.paired import Paired
from limbeck.data.text import Bytes, Characters, Tokens, python_source
from limbeck.experiment import write_whole
from limbeck.models import build
from limbeck.models.gpt import GPT
from limbeck.registry import Method
from tests.conformance import run_of

RESULT = Path(__file__).parent / "results/costs.json"
BATCH, BLOCKS, LENGTH, REPETITIONS, STEPS = 64, 16, 64, 7, 10
EPOCHS = 1 + (3 + REPETITIONS * STEPS) * BATCH // 1437  # as long as is measured, so that schedules and stages run


KD = {False: "kd", True: "kd of texts"}  # what is compared with, by whether it is of sequences


def model(name: str) -> Callable[[int], torch.nn.Module]:
    return lambda _: build(name, channels=1, classes=10, size=8)


def gpt(width: int) -> Callable[[int], torch.nn.Module]:
    return lambda _: GPT(Bytes.vocab_size, width=width, depth=2, heads=2)


def job(method: Method, sequences: bool) -> Run:
    """As many students and teachers as it needs."""
    made = method(**method.example)
    if sequences:
        run = run_of(method, student=gpt(32), teacher=gpt(64), method=made, batch_size=BLOCKS, epochs=EPOCHS)
        run.data = texts(method)
    else:
        run = run_of(
            method, student=model("resnet8"), teacher=model("resnet8x2"), method=made, batch_size=BATCH, epochs=EPOCHS
        )
        run.data = images(method, run.data.views)
    return run


def images(method: Method, views: Mapping[str, View]) -> Data:
    """Half of the examples without a label if it needs such."""
    train = digits()[0]
    y = train.y.clone()
    if "unlabelled" in method.needs:
        y[::2] = UNLABELLED
    return Data(train.x, y, views=views, classes=10)


def texts(method: Method) -> Data:
    """As many steps as of images; the first two bytes are a prompt, every other text is wrong if it needs such."""
    rows = 1437 * BLOCKS // BATCH
    text = "".join(python_source()[0])[: LENGTH * rows]
    if "tokenizers" in method.needs:
        return Paired.packed([text], Bytes(), LENGTH, teacher=Characters(text))
    ids = Tokens.packed([text], Bytes(), LENGTH).x["input_ids"][:rows]
    wrong = torch.arange(rows) % 2 == 1
    masks = {"right": ~wrong, "wrong": wrong} if "wrong" in method.needs else {}
    return Data({"input_ids": ids}, ids.masked_fill(torch.arange(LENGTH) < 2, UNLABELLED), masks=masks)


def peak(run: Run) -> float:
    """The most MiB of tensors alive at once, models and state too, from the start of a run through three steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        turn = steps(run)
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
    jobs = {m.name: (m, "sequences" in m.needs) for m in registry.every() if not asked or m.name in asked}
    jobs |= {name: (registry.find("kd"), sequences) for sequences, name in KD.items()}
    memory = {name: peak(job(*each)) for name, each in jobs.items()}
    cpu = measure({name: steps(job(*each)) for name, each in jobs.items()}, REPETITIONS, STEPS)["cpu"]
    found = {
        name: {
            "ms": statistics.median(cpu[name]),
            "time": statistics.median(ratio(cpu, name, KD[sequences])),
            "mib": memory[name],
            "memory": memory[name] / memory[KD[sequences]],
        }
        for name, (_, sequences) in jobs.items()
    }
    for name, each in sorted(found.items(), key=lambda item: item[1]["time"]):
        print(f"{name:24} {each['ms']:8.2f} ms {each['time']:6.2f} {each['mib']:8.1f} MiB {each['memory']:6.2f}")
    result = {
        "what": "a step of 64 digits, resnet8 from resnet8x2, or of 16 x 64 bytes, GPTs of 2 blocks of 32 and 64; "
        "1 thread: median ms of CPU time, peak MiB; ratios to kd",
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
