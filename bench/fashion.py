"""The gain of `limbeck distill --data fashion-mnist --teacher resnet20x4 --student resnet8 --method kd`, five seeds.

    python bench/fashion.py         writes bench/results/fashion.json; about an hour on two cores

The student sees 20 labels per class of 2,000 images, and the teacher's opinion of all; the student alone trains on the
same batches. One teacher, five students: the interval is over the students' seeds (labels kept, weights, order).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from limbeck.data import load
from limbeck.evaluate import interval, paired
from limbeck.experiment import ALONE, DISTILLED, TEACHER, Experiment, distil

SEEDS = range(5)
KEPT = ("accuracy", "nll", "ece", "agreement", "kl")
RESULT = Path(__file__).parent / "results" / "fashion.json"
EXPERIMENT = Experiment(
    data="fashion-mnist",
    teacher="resnet20x4",
    student="resnet8",
    method="kd",
    examples=2000,
    labels=20,
    unlabelled=3,
    batch_size=16,
    epochs=8,
    teacher_epochs=6,
)


def main(folder: Path) -> None:
    rows = []
    weights = None
    for seed in SEEDS:
        started = time.perf_counter()
        result = distil(EXPERIMENT.with_settings(seed=seed, teacher_weights=weights), folder / str(seed))
        weights = weights or str(folder / "0" / "teacher.safetensors")
        models = result["models"]
        rows.append(
            {
                name: {key: models[name].get(key) for key in ("accuracy", "nll", "ece", "agreement", "kl")}
                for name in models
            }
        )
        rows[-1] |= {"seed": seed, "seconds": round(time.perf_counter() - started, 1)}
        print(seed, {name: rows[-1][name]["accuracy"] for name in (TEACHER, ALONE, DISTILLED)}, flush=True)
    summary: dict[str, object] = {"of": "mean, low, high: 95 % interval by Student's t over the seeds, gains paired"}
    for key in ("accuracy", "nll", "ece", "agreement"):
        alone, distilled = ([row[name][key] for row in rows] for name in (ALONE, DISTILLED))
        summary[key] = {"alone": interval(alone), "distilled": interval(distilled), "gain": paired(distilled, alone)}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found = {
        "commit": commit.stdout.strip(),
        "test_examples": len(load("fashion-mnist")[1].y),
        "settings": {**EXPERIMENT.__dict__, "teacher_weights": "those of seed 0, for the others"},
        "environment": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "seeds": rows,
        "summary": summary,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
