"""Small material for checks that need more than the settings of `core`: no views, no labels held back, any network.

Fashion-MNIST is shrunk to 14 x 14. Its first 6,000 images are the pool that teachers know; a check draws its examples
from it, or from the images after it, by seed. A teacher of the pool is trained once per process and serves all seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck import SGD, Cosine, Data, Run
from limbeck.blocks.logit import CE
from limbeck.data import load
from limbeck.data.named import Images
from limbeck.evaluate import scores
from limbeck.models import build
from limbeck.objective import Objective
from limbeck.signals import Net, Normalize, Output

POOL = 6000


@cache
def fashion(size: int = 14) -> tuple[Images, Images]:
    """All training images and the first 5,000 test images, as means over squares of pixels."""
    train, test = load("fashion-mnist")
    shrink = partial(F.adaptive_avg_pool2d, output_size=size)
    return tuple(
        Images(shrink(part.x[:n].float()).round().byte(), part.y[:n], part.classes)  # type: ignore[return-value]
        for part, n in ((train, len(train.x)), (test, 5000))
    )


def draw(n: int, seed: int, *, first: int = 0, of: int = POOL, classes: Sequence[int] | None = None) -> Tensor:
    """Ids of n random training images among `of` from the first one on, of some classes only."""
    ids = first + torch.randperm(of, generator=torch.Generator().manual_seed(seed))
    if classes is not None:
        ids = ids[torch.isin(fashion()[0].y[ids], torch.tensor(classes))]
    return ids[:n]


def clothes(ids: Tensor, size: int = 14) -> Data:
    train, _ = fashion(size)
    return Data(train.x[ids], train.y[ids], classes=10)


def held_out(size: int = 14) -> Data:
    _, test = fashion(size)
    return Data(test.x, test.y, classes=10)


def digits() -> tuple[Data, Data]:
    train, test = (Data(part.x, part.y, classes=10) for part in load("digits"))
    return train, test


def net(name: str, seed: int, *, size: int = 14, classes: int = 10) -> Net:
    torch.manual_seed(seed)
    return Net(build(name, channels=1, classes=classes, size=size), inputs=Normalize([0.29], [0.33]))


def layers(*sizes: int, seed: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """An MLP of these widths on the flattened image."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten()]
    for i in range(len(sizes) - 1):
        parts += [nn.Linear(sizes[i], sizes[i + 1]), activation()]
    return nn.Sequential(*parts[:-1])


def fit(student: nn.Module, method: Objective, data: Data, *, epochs: int, seed: int, **fields: Any) -> Run:
    """A finished run: batches of 64, SGD with a cosine from 0.05 if nothing else is said."""
    given = {"optimizer": SGD(Cosine(0.05)), "batch_size": 64, "accelerator": "cpu", **fields}
    run = Run(student=student, method=method, data=data, epochs=epochs, seed=seed, **given)
    run.fit()
    return run


def percent(run: Run, test: Data) -> float:
    """Accuracy of the (first) student."""
    assert test.y is not None
    return 100 * scores(run.predict(run.students[0], test), test.y)["accuracy"]


class Told:
    """A teacher that was asked once: its logits (n, c) by the examples' ids, the same for every view."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, x: Any, view: str, index: Tensor) -> Output:
        return Output({".logits": self.logits[index]})

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None: ...


@cache
def of_pool(name: str = "cnnx2", place: int = 0, size: int = 14) -> Run:
    """A teacher, trained on all images of the pool: 6 epochs."""
    seed = 1_000_000 + place
    return fit(net(name, seed, size=size), CE(), clothes(torch.arange(POOL), size), epochs=6, seed=seed)


def told(teacher: Run, data: Data) -> Told:
    return Told(teacher.predict(teacher.students[0], data))
