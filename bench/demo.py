"""`limbeck demo` for five seeds: does the distilled student beat the student alone in every one of them?

python bench/demo.py            writes bench/demo.json; about five times a demo
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from limbeck.demo import experiment
from limbeck.evaluate import interval, paired
from limbeck.experiment import ALONE, DISTILLED, TEACHER, distil

SEEDS = range(5)
HERE = Path(__file__).parent


def main() -> None:
    rows = []
    for seed in SEEDS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = distil(experiment(seed), Path(folder))
        models = result["models"]
        rows.append({name: {key: models[name][key] for key in ("accuracy", "nll", "ece")} for name in models})
        rows[-1] |= {"seed": seed, "seconds": round(time.perf_counter() - started, 1)}
        print(seed, {name: rows[-1][name]["accuracy"] for name in (TEACHER, ALONE, DISTILLED)}, flush=True)
    alone, distilled = ([row[name]["accuracy"] for row in rows] for name in (ALONE, DISTILLED))
    summary = {
        "alone": interval(alone),
        "distilled": interval(distilled),
        "gain": paired(distilled, alone),
        "wins": sum(d > a for d, a in zip(distilled, alone, strict=True)),
        "of": "mean, low, high: 95 % interval by Student's t over the seeds, the gain paired",
    }
    found = {"settings": result["settings"], "environment": result["environment"], "seeds": rows, "summary": summary}
    (HERE / "demo.json").write_text(json.dumps(found, indent=1) + "\n")
    print(summary)


if __name__ == "__main__":
    main()
