"""Methods of the family preparation."""

from __future__ import annotations

import copy

import torch

from bench.effects.core import Arms, check, objective, score
from bench.effects.shots import SHOTS
from bench.effects.toys import POOL, clothes, draw, fit, held_out, net, of_pool, percent, told
from limbeck import KL
from limbeck.losses.divergence import centroids, class_mass, cmi


@check(
    "mcmi",
    baseline="supervised",
    claim="a teacher that was fine-tuned so has better students, by half a point, than one fine-tuned on the labels",
    margin=0.5,
    settings={**SHOTS, "weight": 0.4, "fine-tuning": "3 epochs of all 6,000", "student's method": "KL(4.0)"},
)
def mcmi(seed: int) -> Arms:
    pool, data, test = clothes(torch.arange(POOL)), clothes(draw(500, seed)), held_out()
    assert test.y is not None
    arms = {}
    for arm, method in (("method", "mcmi(weight=0.4)"), ("baseline", "supervised")):
        trained = copy.deepcopy(of_pool().students[0]).requires_grad_()
        teacher = fit(trained, objective(method), pool, epochs=3, seed=seed)
        student = fit(net("cnn", seed), KL(4.0), data, epochs=60, seed=seed, teacher=told(teacher, data))
        arms[arm] = percent(student, test)
        said = teacher.predict(teacher.students[0], test)
        means = centroids(class_mass(said, test.y))
        arms[f"{arm}: teacher"] = score(said, test.y)
        arms[f"{arm}: teacher's CMI in nats"] = float(cmi(said, test.y, means).mean())
    return arms
