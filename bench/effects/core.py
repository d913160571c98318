"""What an effect is: a method and its baseline on the same seeds, data, budget and first weights.

    @check("sinkd", baseline="kd", claim="...")
    def sinkd(seed): return compare(seed, method="sinkd", baseline="kd")

A check returns one figure per arm. `"method"` and `"baseline"` are compared; further arms are kept beside them.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import registry
from limbeck.blocks.logit import CE
from limbeck.evaluate import paired, scores
from limbeck.experiment import Experiment, Material, needs, prepare, write_whole
from limbeck.objective import Objective
from limbeck.run import Run

SEEDS = (0, 1, 2, 3, 4)
FRESH = (5, 6, 7, 8, 9)
RESULTS = Path(__file__).parent.parent / "results" / "effects"

Arms = Mapping[str, float]


@dataclass(frozen=True)
class Check:
    """name: the method's. figure: what the numbers are. better: +1 if more of it is claimed, -1 if less.
    margin: the least difference that the entry claims, in the figure's unit.
    seeds: FRESH where the settings were chosen after a look at the others."""

    name: str
    run: Callable[[int], Arms]
    baseline: str
    claim: str
    figure: str = "accuracy"
    better: int = 1
    margin: float = 0.0
    seeds: tuple[int, ...] = SEEDS
    settings: Mapping[str, Any] = field(default_factory=dict)


CHECKS: dict[str, Check] = {}


def check(name: str, **fields: Any) -> Callable[[Callable[[int], Arms]], Callable[[int], Arms]]:
    """Register a function `seed -> {"method": figure, "baseline": figure, ...}` as the check of a method."""

    def register(run: Callable[[int], Arms]) -> Callable[[int], Arms]:
        if name in CHECKS:
            raise ValueError(f"a second check of {name}: one file has it already")
        CHECKS[name] = Check(registry.entry(name).name, run, **fields)
        return run

    return register


#: Five labels per class of digits, the rest without; the teacher has 99 %. The student sees 15 epochs of 13 steps.
FEW = Experiment(
    data="digits",
    teacher="resnet8x2",
    student="cnn",
    labels=5,
    unlabelled=3,
    batch_size=32,
    augment=True,
    epochs=15,
    teacher_epochs=8,
)
#: All labels of digits.
FULL = FEW.with_settings(labels=None, unlabelled=None, epochs=10)


def objective(method: str | Objective) -> Objective:
    """By name with the settings of its example, by code, or as it is."""
    if isinstance(method, Objective):
        return method
    if "(" in method:
        return registry.make(method)
    return registry.make(method, **registry.find(method).example)


@cache
def teacher(setting: Experiment, seed: int, name: str, place: int = 0) -> nn.Module:
    """Trained on all labels of the setting; the same for every check of a process."""
    material = prepare(setting.with_settings(seed=seed))
    net = material.model(name, seed=seed + 1_000_000 + place)
    Run(
        student=net,
        method=CE(),
        data=material.full,
        epochs=setting.teacher_epochs,
        batch_size=setting.batch_size,
        optimizer=registry.read(setting.optimizer),
        seed=seed + 1_000_000 + place,
        accelerator="cpu",
    ).fit()
    return net


def train(method: str | Objective, seed: int, setting: Experiment = FEW, **fields: Any) -> tuple[Run, Material]:
    """A student trained by the method in the setting: equal seeds give equal data, weights and batches."""
    named = method if isinstance(method, str) and "(" not in method else "supervised"
    material = prepare(setting.with_settings(seed=seed, method=named))
    if "teacher" not in fields and setting.teacher is not None:
        fields["teacher"] = teacher(setting.with_settings(method="kd"), seed, setting.teacher)
    wants = needs(setting.with_settings(method=named))
    count = 2 if "students" in wants else 1
    given = {
        "student": [material.model(setting.student, seed=seed + 1000 * i) for i in range(count)],
        "method": objective(method),
        "data": material.train,
        "test": material.test,
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "unlabelled": setting.unlabelled,
        "optimizer": registry.read(setting.optimizer),
        "seed": seed,
        "accelerator": "cpu",
    }
    run = Run(**{**given, **fields})
    run.fit()
    return run, material


def accuracy(run: Run, material: Material) -> float:
    """Of the last epoch's first student on the test set, in percent."""
    return score(run.predict(run.students[0], material.test), material.test.y)


def score(logits: Tensor, y: Tensor | None, name: str = "accuracy") -> float:
    """ "accuracy" and "ece" in percent, "nll" in nats."""
    assert y is not None
    number = scores(logits, y)[name]
    return number if name == "nll" else 100 * number


def compare(
    seed: int, method: str | Objective, baseline: str | Objective, setting: Experiment = FEW, **fields: Any
) -> Arms:
    """Both trained on the same budget; their accuracies in percent."""
    return {
        arm: accuracy(*train(each, seed, setting, **fields))
        for arm, each in (("method", method), ("baseline", baseline))
    }


def measure(each: Check, count: int = len(SEEDS)) -> dict[str, Any]:
    """Run a check on the first of its seeds; what its JSON file holds."""
    started, seeds = time.perf_counter(), each.seeds[:count]
    rows = [dict(each.run(seed)) for seed in seeds]
    arms = {arm: [round(row[arm], 6) for row in rows] for arm in rows[0]}
    difference = paired(arms["method"], arms["baseline"])
    low, high = sorted(each.better * bound for bound in difference[1:])
    verdict = "yes" if low > 0 and each.better * difference[0] >= each.margin else "no" if high < 0 else "undecided"
    return {
        "method": each.name,
        "baseline": each.baseline,
        "claim": each.claim,
        "figure": each.figure,
        "better": "more" if each.better > 0 else "less",
        "margin": each.margin,
        "seeds": list(seeds),
        "arms": arms,
        "difference": difference,
        "of": "mean, low, high of method - baseline: 95 % interval by Student's t over the paired seeds",
        "reproduced": verdict,
        "settings": dict(each.settings),
        "seconds": round(time.perf_counter() - started, 1),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip()


def write(found: Mapping[str, Any]) -> Path:
    """Whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{found['method']}.json"
    write_whole(path, json.dumps(found, indent=1) + "\n")
    return path
