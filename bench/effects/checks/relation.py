"""Methods of the family relation."""

from __future__ import annotations

from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, accuracies


@check("rkd", baseline="supervised", claim="better than the labels alone", settings=SHOTS)
def rkd(seed: int) -> Arms:
    return accuracies(seed, "rkd", "supervised", "kd", features=True)
