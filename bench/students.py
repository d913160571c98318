"""Four students of one teacher: what a step of `together` costs over one pass of the teacher and four bare students.

    OMP_NUM_THREADS=1 python -m bench.students [--out bench/results/students.json]

The bound is written by hand: the teacher's forward once, and for each student the step that a loop without any library
takes with the teacher's logits given. Ratios of CPU time as in bench/step.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck
from bench.step import ALPHA, BATCH, TAU, commit, examples, measure, net, rounded
from limbeck.together import Lockstep, Shared

STUDENTS = (8, 8, 12, 4)  # base widths
TEACHER = 32
LIMIT = 1.05


def teacher_alone(teacher: nn.Module, x: Tensor) -> Iterator[None]:
    teacher.eval()
    while True:
        for index in torch.randperm(len(x)).split(BATCH):
            with torch.inference_mode():
                teacher(x[index].float() / 255)
            yield


def student_alone(student: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Iterator[None]:
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    student.train()
    images = x[:BATCH].float() / 255  # loading is the teacher's part: students share it
    p = F.log_softmax(logits / TAU, -1)
    while True:
        s = student(images)
        soft = F.kl_div(F.log_softmax(s / TAU, -1), p, reduction="batchmean", log_target=True)
        ((1 - ALPHA) * F.cross_entropy(s, y[:BATCH]) + ALPHA * TAU**2 * soft).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def side_by_side(teacher: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    shared = [Shared(teacher)]
    runs = [
        limbeck.Run(
            student=net(width), teacher=shared, data=(x, y), method=limbeck.kd(tau=TAU, alpha=ALPHA), batch_size=BATCH,
            optimizer=limbeck.SGD(0.05), accelerator="cpu", epochs=10**4,
        )
        for width in STUDENTS
    ]  # fmt: skip
    lockstep = Lockstep(runs, shared)
    lockstep.setup()
    while True:
        yield from lockstep.epoch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, y = examples(20_000)
    with torch.no_grad():
        logits = net(TEACHER).eval()(x[:BATCH].float() / 255)
    turns = {
        "together": side_by_side(net(TEACHER), x, y),
        "teacher": teacher_alone(net(TEACHER), x),
        **{f"student{i}": student_alone(net(width), x, y, logits) for i, width in enumerate(STUDENTS)},
    }
    cpu = measure(turns, args.repetitions, steps=20)["cpu"]
    bound = [sum(parts) for parts in zip(*(times for name, times in cpu.items() if name != "together"), strict=True)]
    ratios = [whole / parts for whole, parts in zip(cpu["together"], bound, strict=True)]
    found = {
        "what": "CPU milliseconds per step on 1 thread, batch 128, 1x28x28 in 100 classes; medians per repetition",
        "widths": {"teacher": TEACHER, "students": STUDENTS},
        "commit": commit(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
        "cpu": cpu,
        "over_bound": {"median": statistics.median(ratios), "each": ratios, "limit": LIMIT},
    }
    print({name: round(statistics.median(times), 2) for name, times in cpu.items()})
    print(f"together over teacher + {len(STUDENTS)} students: {statistics.median(ratios):.3f}, limit {LIMIT}")
    if args.out:
        args.out.write_text(json.dumps(rounded(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
