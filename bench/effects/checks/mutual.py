"""Methods of the family mutual."""

from __future__ import annotations

from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, figure


@check(
    "dml",
    baseline="supervised",
    claim="each of two equal networks that learn together is better than alone; the first one counts",
    settings={**SHOTS, "teacher": None, "student": "cnn, beside another"},
)
def dml(seed: int) -> Arms:
    return {
        "method": figure("accuracy", "dml", seed, students=("cnn", "cnn")),
        "baseline": figure("accuracy", "supervised", seed),
    }


PEERS = {"students": ("cnn", "cnnx2")}


@check(
    "bd_kd",
    baseline="dml",
    claim="the small one of two networks that learn together is better calibrated, and as accurate",
    figure="ECE in %",
    better=-1,
    settings={**SHOTS, "teacher": None, "student": "cnn, beside cnnx2", "delta": 2.0, "tau": 1.0},
)
def bd_kd(seed: int) -> Arms:
    return {
        "method": figure("ece", "bd_kd", seed, **PEERS),
        "baseline": figure("ece", "dml", seed, **PEERS),
        "method: accuracy": figure("accuracy", "bd_kd", seed, **PEERS),
        "baseline: accuracy": figure("accuracy", "dml", seed, **PEERS),
    }
