"""Methods of the family semi, on digits: five labels per class, and 1,247 digits without."""

from __future__ import annotations

from functools import cache

from bench.effects.core import FEW, Arms, accuracy, check, train

SETTINGS = {
    "data": "digits, 5 labels per class, 3 other digits for each labelled one of a batch",
    "student": "cnn",
    "batch_size": 32,
    "epochs": 30,
    "optimizer": FEW.optimizer,
    "views": "crop; strong: RandAugment and cutout too",
}


@cache
def reached(method: str, seed: int) -> float:
    return accuracy(*train(method, seed, FEW.with_settings(teacher=None, epochs=30), test=None))


@check("fixmatch", baseline="supervised", claim="far better than the few labels alone", settings=SETTINGS)
def fixmatch(seed: int) -> Arms:
    return {"method": reached("fixmatch", seed), "baseline": reached("supervised", seed)}


@check(
    "ema_pseudo_label",
    baseline="fixmatch",
    claim="an average of the student's past weights labels better than the student of the moment",
    settings={**SETTINGS, "decay": 0.9},
)
def ema_pseudo_label(seed: int) -> Arms:
    return {
        "method": reached("ema_pseudo_label(decay=0.9)", seed),  # of 390 steps; 0.999 is for 100,000 and more
        "baseline": reached("fixmatch", seed),
        "supervised": reached("supervised", seed),
    }
