"""Whether `limbeck check` finds planted label noise and a planted trigger, and nothing where nothing is planted.

    OMP_NUM_THREADS=1 python -m bench.check [--out bench/results/check.json]      # about five minutes

Noise: labels flipped to any other class; the estimate by each judge, with what it is asked about.
Trigger: a 2 x 2 white corner that means class 0 to a teacher trained with it on 5 % of its examples. `seen` is the
share of the user's own training images that carry it, rightly labelled, in distillation as for the student alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import limbeck
from bench.step import commit
from limbeck.blocks.logit import CE, KL
from limbeck.data.named import load, noisy_labels
from limbeck.diagnose import label_noise, out_of_bag, passed_on
from limbeck.models import build

EPOCHS = 15


def trained(name: str, x: Tensor, y: Tensor, seed: int, teacher: limbeck.Net | None = None) -> limbeck.Net:
    torch.manual_seed(seed)
    net = limbeck.Net(build(name, channels=1, classes=10, size=x.shape[-1]))
    limbeck.Run(
        student=net, teacher=teacher, method=CE() if teacher is None else CE() + KL(4.0), data=(x, y), seed=seed,
        epochs=EPOCHS, batch_size=32, optimizer=limbeck.AdamW(0.002), accelerator="cpu",
    ).fit()  # fmt: skip
    return net


def asked(net: limbeck.Net, x: Tensor) -> limbeck.Output:
    net.read([".embedding"])
    with torch.inference_mode():
        return net.eval()(x.float() / 255)


def noise(data: str, rate: float, seed: int) -> dict[str, Any]:
    train, test = load(data)
    rows = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))[:2000]
    x, truth = train.x[rows], train.y[rows]
    y, y_test = (noisy_labels(labels, rate, seed=seed, classes=10) for labels in (truth, test.y))
    teacher = trained("cnn", x, y, seed)
    on_train = asked(teacher, x)
    judges = {
        "forest on inputs": (out_of_bag(x, y, 10), y),
        "forest on the teacher's embedding": (out_of_bag(on_train.embedding, y, 10), y),
        "teacher, in sample": (on_train.logits.softmax(1), y),
        "teacher on test labels": (asked(teacher, test.x).logits.softmax(1), y_test),
    }
    return {
        "data": data, "rate": rate, "seed": seed, "wrong": share(y != truth), "wrong, test": share(y_test != test.y),
        "estimate": {name: label_noise(p, labels)["rate"] for name, (p, labels) in judges.items()},
        "agrees": {name: share(p.argmax(1) == labels) for name, (p, labels) in judges.items()},
    }  # fmt: skip


def trigger(data: str, seen: float, seed: int) -> list[dict[str, Any]]:
    train, test = load(data)
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))[:2000]
    x, y = train.x[order], train.y[order]
    bad, own = torch.arange(len(x) // 20), torch.arange(len(x) - int(seen * len(x)), len(x))
    mine = x.index_copy(0, own, patched(x[own]))
    both, labels = torch.cat([test.x, patched(test.x)]), test.y.repeat(2)
    clean = torch.arange(len(both)) < len(test.x)
    slices = {f"class {k}": clean & (labels == k) for k in range(10)} | {"patched": ~clean}
    alone = asked(trained("mlp", mine, y, seed), both).logits.argmax(1)
    teachers = {
        "clean": trained("cnn", x, y, 100 + seed),
        "poisoned": trained("cnn", x.index_copy(0, bad, patched(x[bad])), y.index_fill(0, bad, 0), 100 + seed),
    }
    found = []
    for name, teacher in teachers.items():
        student = asked(trained("mlp", mine, y, seed, teacher), both).logits.argmax(1)
        choices = {"student": student, "teacher": asked(teacher, both).logits.argmax(1), "alone": alone}
        passed = passed_on(*choices.values(), labels, slices)
        found.append(
            {
                "data": data, "teacher": name, "seen": seen, "seed": seed,
                "accuracy": {role: share((choice == labels)[clean]) for role, choice in choices.items()},
                "attack": {role: share((choice == 0)[~clean & (labels != 0)]) for role, choice in choices.items()},
                "planted": [asdict(each) for each in passed if each.planted],
                "teacher alone": [asdict(each) for each in passed if not each.taken_over],
                "ordinary": len([each for each in passed if each.taken_over and not each.planted]),
            }
        )  # fmt: skip
    return found


def patched(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., :2, :2] = 255
    return x


def share(rows: Tensor) -> float:
    return float(rows.double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the numbers here")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.seeds)
    result = {"commit": commit(), "torch": torch.__version__, "noise": [], "trigger": []}
    for data, rate, seed in [("digits", rate, s) for s in seeds for rate in (0.0, 0.1, 0.2)] + [
        ("fashion-mnist", rate, 0) for rate in (0.0, 0.1, 0.2)
    ]:
        result["noise"].append(noise(data, rate, seed))
        print(json.dumps(result["noise"][-1]), flush=True)
    for data, seen, seed in [("digits", seen, s) for s in seeds for seen in (0.02, 0.0)] + [
        ("fashion-mnist", 0.02, s) for s in (0, 1)
    ]:
        result["trigger"] += trigger(data, seen, seed)
        print(json.dumps(result["trigger"][-2:]), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
