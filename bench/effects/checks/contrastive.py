"""Methods of the family contrastive."""

from __future__ import annotations

from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, accuracies

NEGATIVES = 256  # of 500 images


@check("crd", baseline="kd", claim="better than kd", settings={**SHOTS, "negatives": NEGATIVES})
def crd(seed: int) -> Arms:
    return accuracies(seed, f"crd(negatives={NEGATIVES})", "kd", "supervised", features=True)
