"""500 images, and a teacher that knows 6,000: where a teacher helps, and its student is not perfect.

At this many steps (480) plain distillation gains some five points over the labels alone; at half of them, none.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from bench.effects.core import Arms, objective, score
from bench.effects.toys import clothes, draw, fit, held_out, net, of_pool, told

SHOTS = {
    "data": "500 of Fashion-MNIST's first 6,000 images at 14 x 14, other ones in each seed; 5,000 test images",
    "teacher": "cnnx2, 6 epochs of all 6,000",
    "student": "cnn",
    "epochs": 60,
    "batch_size": 64,
    "optimizer": "SGD(Cosine(0.05))",
}


@cache
def logits(
    method: str,
    seed: int,
    *,
    n: int = 500,
    epochs: int = 60,
    students: tuple[str, ...] = ("cnn",),
    teacher: str = "cnnx2",
    features: bool = False,
    **fields: Any,
) -> Tensor:
    """What the first student says of the test images, (5000, 10), after training on n images.

    method: name or code; one that asks for a teacher gets the one of the pool. features: it is asked for more than its
    logits. fields: of `Run`.
    """
    data = clothes(draw(n, seed))
    if teacher:
        known = of_pool(teacher)
        fields["teacher"] = known.students[0] if features else told(known, data)
    nets = [net(name, seed + 1000 * i) for i, name in enumerate(students)]
    run = fit(nets[0] if len(nets) == 1 else nets, objective(method), data, epochs=epochs, seed=seed, **fields)
    return run.predict(run.students[0], held_out())


def figure(name: str, method: str, seed: int, **fields: Any) -> float:
    """A `score` on the test images."""
    return score(logits(method, seed, **fields), held_out().y, name)


def accuracies(seed: int, method: str, baseline: str, *others: str, features: bool = False, **fields: Any) -> Arms:
    """In percent. features: the method, unlike the others, asks the teacher for more than its logits."""
    return {
        "method": figure("accuracy", method, seed, features=features, **fields),
        "baseline": figure("accuracy", baseline, seed, **fields),
        **{other: figure("accuracy", other, seed, **fields) for other in others},
    }
