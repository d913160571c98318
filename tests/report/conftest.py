"""What `limbeck distill` and `limbeck compare` leave, in small."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.report import plots

PIXELS = plots.png([[0, 255], [128, 7]])


def example(**more: Any) -> dict[str, Any]:
    return {"image": PIXELS, "label": "7", "teacher": "7", "alone": "1", "distilled": "7", **more}


def finding(level: str, check: str, figure: str, means: str, do: str) -> dict[str, Any]:
    return {"level": level, "check": check, "figure": figure, "means": means, "do": do, "numbers": {}}


@pytest.fixture
def result() -> dict[str, Any]:
    student = {"parameters": 78_012, "flops": 155_000, "bytes": 313_100}
    return {
        "title": "demo on digits",
        "command": "limbeck demo --seed 0",
        "method": "0.1 * CE() + 0.9 * KL(tau=4.0)",
        "summary": "The student gains.",
        "environment": {"limbeck": "0.1.0", "device": "cpu"},
        "settings": {"epochs": 3, "schedule": None, "augment": ["shift"]},
        "models": {
            "teacher": {"accuracy": 0.9889, "nll": 0.0412, "parameters": 1_234_567, "flops": 2.46e6},
            "student alone": {**student, "accuracy": 0.9583, "nll": 0.1512, "ece": 0.0312, "latency_ms": 0.0512},
            "student distilled": {
                **student,
                "accuracy": 0.975,
                "nll": 0.0921,
                "ece": 0.0187,
                "agreement": 0.9806,
                "kl": 0.0519,
                "latency_ms": 0.0508,
                "throughput": 199_410.4,
            },
        },
        "curves": {
            "student alone": [{"epoch": e, "loss": 1 / e, "terms": {"ce": 1 / e}, "accuracy": 0.9} for e in (1, 2, 3)],
            "student distilled": [
                {"epoch": 1, "loss": 2.0, "terms": {"ce": 1.0, "kl": 1.0}},
                {"epoch": 2, "loss": 0.1, "terms": {"ce": 0.09, "kl": 0.01}, "accuracy": 0.95},
            ],
        },
        "reliability": {"student alone": [[None, None, 0], [0.7, 0.5, 0.25], [0.9, 0.8, 0.75]]},
        "classes": {
            "names": ["a", "b", "c"],
            "examples": [20, 10, 0],
            "accuracy": {"student alone": [0.9, 0.8, None], "student distilled": [0.85, 0.9, None]},
        },
        "confusion": {
            "examples": 30,
            "differ": 6,
            "teacher_right": 3,
            "student_right": 2,
            "pairs": [[0, 1, 3, 2, 1], [2, 0, 2, 1, 0], [1, 0, 1, 0, 1]],
        },
        "check": [
            finding("ok", "capacity gap", "15.8 times the parameters", "no law is known", ""),
            finding("note", "test labels", "4.1% doubtful", "its own mistakes count too", "look at example 7"),
            finding("warning", "teacher's calibration", "ECE 21.0%", "over-confident", "--method.tau=6 or more"),
            finding("warning", "passed on by the teacher", "a as b", "so looks a planted trigger", ""),
        ],
        "examples": {
            "gained": [example(), example(image=None, text="some words")],
            "lost": [],
            "disagreeing": [example(kl=1.2345)],
        },
    }


@pytest.fixture
def found() -> dict[str, Any]:
    """Three arms on two students; what is not in the table is not measured."""
    costs = {
        "small": {
            "parameters": 78_042.0,
            "flops": 12.5e6,
            "bytes": 320_100.0,
            "latency_ms": 0.41,
            "throughput": 21_951.2,
        },
        "large": {
            "parameters": 175_258.0,
            "flops": 28.1e6,
            "bytes": 719_000.0,
            "latency_ms": 0.68,
            "throughput": 13_235.3,
        },
    }
    students = {"dkd": "small", "kd": "small", "student alone": "large"}
    accuracies = {"dkd": [0.91, 0.93, 0.92], "kd": [0.90, 0.925, 0.918], "student alone": [0.89, 0.88, 0.9]}
    spreads = {
        "dkd": ([0.92, 0.8951586228, 0.9448413771], [0.03, 0.0051586228, 0.0548413771], [0.31, 0.305, 0.315]),
        "kd": ([0.9143333, 0.882, 0.9466], [0.0243333, -0.0075, 0.0562], [0.33, None, None]),
        "student alone": ([0.89, 0.8652, 0.9148], None, [0.41, 0.4, 0.42]),
    }
    return {
        "title": "three arms on digits",
        "summary": "dkd comes first of 3.",
        "settings": {"data": "digits", "epochs": 2},
        "environment": {"device": "cpu"},
        "command": "limbeck compare --config compare.yaml",
        "methods": {"dkd": "CE() + DKD()", "kd": "CE() + KL(tau=4.0)", "student alone": "CE()"},
        "students": students,
        "baseline": "student alone",
        "select": "best-val",
        "seeds": [0, 1, 2],
        "teacher": {"accuracy": 0.95, "nll": 0.2, "ece": 0.015, "parameters": 1.23e6, "latency_ms": 1.83},
        "runs": [
            {
                "arm": arm,
                "seed": seed,
                "accuracy": y,
                "nll": 0.3,
                "ece": 0.02,
                "seconds": 12.3,
                "memory": 2e8,
                "epoch": 2,
            }
            for arm, values in accuracies.items()
            for seed, y in enumerate(values)
        ],
        "table": [
            {
                "arm": arm,
                "rank": rank,
                "accuracy": accuracy,
                "nll": nll,
                "ece": [0.02, None, None],
                "agreement": [0.97, 0.96, 0.98] if arm != "student alone" else None,
                "difference": difference,
                "time": 1.0423 if arm == "dkd" else 1.0 if arm == "kd" else 0.8,
                "memory": None,
                **costs[students[arm]],
            }
            for rank, (arm, (accuracy, difference, nll)) in enumerate(spreads.items(), 1)
        ],
        "curves": {
            "dkd": [{"epoch": e, "loss": 3 / e, "terms": {"ce": 1 / e, "dkd": 2 / e}, "accuracy": 0.9} for e in (1, 2)],
            "kd": [{"epoch": e, "loss": 3 / e, "accuracy": 0.8 + e / 20} for e in (1, 2)],
            "student alone": [{"epoch": e, "loss": 1 / e, "accuracy": 0.8} for e in (1, 2)],
        },
    }
