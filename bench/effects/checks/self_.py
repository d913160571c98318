"""Methods of the family self."""

from __future__ import annotations

from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, accuracies, figure

MORE = {"n": 2000, "epochs": 30}


@check(
    "ps_kd",
    baseline="supervised",
    claim="better calibrated, and as accurate; the entry's bar is 0.6 times the ECE",
    figure="ECE in %",
    better=-1,
    settings={**SHOTS, "data": "2,000 of the images", "teacher": None, "epochs": 30},
)
def ps_kd(seed: int) -> Arms:
    arms = {"method": "ps_kd", "baseline": "supervised", "label smoothing": "label_smoothing"}
    return {
        **{arm: figure("ece", method, seed, **MORE) for arm, method in arms.items()},
        **{f"{arm}: accuracy": figure("accuracy", method, seed, **MORE) for arm, method in arms.items()},
        **{f"{arm}: nll": figure("nll", method, seed, **MORE) for arm, method in arms.items()},
    }


@check(
    "sla",
    baseline="supervised",
    claim="better than the labels alone, by 1.5 points",
    margin=1.5,
    settings={**SHOTS, "teacher": None, "batch_size": 32},
)
def sla(seed: int) -> Arms:
    return accuracies(seed, "sla", "supervised", batch_size=32)
