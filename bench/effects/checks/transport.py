"""Methods of the family transport."""

from __future__ import annotations

from bench.effects.core import Arms, check, compare


@check("sinkd", baseline="kd", claim="beats KD by KL at equal budget")
def sinkd(seed: int) -> Arms:
    return compare(seed, "sinkd", "kd")
