"""Methods of the family committee."""

from __future__ import annotations

from functools import cache

import torch

from bench.effects.core import Arms, check, objective, score
from bench.effects.shots import SHOTS
from bench.effects.toys import POOL, clothes, draw, fit, held_out, net, percent, told
from limbeck import Run

MEMBERS = 3


@cache
def member(place: int) -> Run:
    """It knows its own third of the pool."""
    share, seed = POOL // MEMBERS, 1_000_000 + place
    known = clothes(torch.arange(share * place, share * (place + 1)))
    return fit(net("cnnx2", seed), objective("supervised"), known, epochs=18, seed=seed)


@check(
    "committee",
    baseline="kd",
    claim="better than kd from one of its members, another one in each seed",
    settings={**SHOTS, "teacher": "3 x cnnx2, 18 epochs of 2,000 each"},
)
def committee(seed: int) -> Arms:
    data, test, one = clothes(draw(500, seed)), held_out(), seed % MEMBERS
    heard = [told(member(place), data) for place in range(MEMBERS)]
    students = {"method": ("committee", heard), "baseline": ("kd", heard[one])}
    arms = {
        arm: percent(fit(net("cnn", seed), objective(method), data, epochs=60, seed=seed, teacher=teacher), test)
        for arm, (method, teacher) in students.items()
    }
    said = [told(member(place), test).logits for place in range(MEMBERS)]
    together = torch.stack(said).softmax(-1).mean(0).log()
    return {**arms, "committee itself": score(together, test.y), "that member": score(said[one], test.y)}
