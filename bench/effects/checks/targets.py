"""Methods that change what the teacher says, or which part of the student hears it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.effects.core import Arms, check, objective
from bench.effects.toys import (
    POOL,
    clothes,
    digits,
    draw,
    fashion,
    fit,
    held_out,
    layers,
    net,
    of_pool,
    percent,
    told,
)
from limbeck import CE, KL, UNLABELLED, AdamW, Data, Run, registry
from limbeck.answers import Answers
from limbeck.attacks import fgsm, margin, margin_step
from limbeck.blocks.hard import HARD
from limbeck.blocks.lelp import LELP
from limbeck.data import Draw
from limbeck.data.select import subset
from limbeck.evaluate import scores
from limbeck.heads import DualHead
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Step

# --- defensive distillation ---------------------------------------------------------------------------------------

HOT = {
    "data": "Fashion-MNIST 28 x 28, 6,000 images",
    "models": "MLP 784-128-10",
    "tau": 20.0,
    "epochs": 8,
    "adam": "0.001, and 0.01 at tau 20",
    "attack": "one step of 0.1",
}


@cache
def hot(seed: int) -> dict[str, Run]:
    data = clothes(draw(POOL, seed), 28)

    def run(method: str, lr: float, student: int, teacher: Run | None = None) -> Run:
        return fit(
            layers(784, 128, 10, seed=student, activation=torch.nn.ReLU),
            objective(method),
            data,
            epochs=8,
            seed=seed,
            optimizer=AdamW(lr, weight_decay=0.0),
            teacher=None if teacher is None else teacher.students[0],
        )

    plain, teacher = run("supervised", 0.001, seed), run("hot_labels", 0.01, seed)
    return {
        "baseline": plain,
        "hot_labels": teacher,
        "defensive_distillation": run("defensive_distillation", 0.01, seed + 1, teacher),
        "plain, 10 x the rate": run("supervised", 0.01, seed),
    }


def withstood(run: Run, attack: Callable[..., Tensor]) -> float:
    test = held_out(28)
    x, y, model = test.x[:2000] / 255, test.y[:2000], run.students[0].eval()
    with torch.no_grad():
        logits = model(attack(model, x, y, eps=0.1)).logits
    return 100 * float((margin(logits, y) > 0).float().mean())


def defended(method: str, seed: int) -> Arms:
    runs = hot(seed)
    runs = {"method": runs[method], "baseline": runs["baseline"], "plain, 10 x the rate": runs["plain, 10 x the rate"]}
    return (
        {arm: withstood(run, fgsm) for arm, run in runs.items()}
        | {f"{arm}, margin attack": withstood(run, margin_step) for arm, run in runs.items()}
        | {f"{arm}, clean": percent(run, held_out(28)) for arm, run in runs.items()}
    )


for name in ("defensive_distillation", "hot_labels"):
    check(
        name,
        baseline="supervised",
        claim="more right answers under the fast gradient sign; an attack on the logits' margin is not stopped",
        figure="accuracy under FGSM",
        settings=HOT,
    )(lambda seed, name=name: defended(name, seed))


# --- two heads ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneHead(Objective):
    """What DHO's two heads learn, in one."""

    def loss(self, step: Step, state: Any) -> Terms:
        logits = step.student("x").logits
        taught = 0.5 * kl(logits, step.teacher("x").logits, tau=2.0)
        return {
            "ce": Term(0.5 * cross_entropy(logits, step.y), where="labelled"),
            "kl/labelled": Term(taught, where="labelled"),
            "kl/unlabelled": Term(taught, where="unlabelled"),
        }


@check(
    "dho",
    baseline="one head for both",
    claim="two heads, one for the labels and one for a biased teacher, do better than one",
    settings={
        "data": "Fashion-MNIST 14 x 14, 100 labels and 3,000 images without",
        "teacher": "cnn, a third of its labels swapped in pairs of classes",
        "student": "cnn",
        "epochs": 6,
        "mixture": "chosen on 500 other labels",
    },
)
def dho(seed: int) -> Arms:
    ids, test = draw(POOL, seed), held_out()
    y = fashion()[0].y[ids]
    swapped = torch.rand(len(ids), generator=torch.Generator().manual_seed(seed)) < 0.35
    biased = Data(clothes(ids).x, torch.where(swapped, y ^ 1, y), classes=10)
    teacher = fit(net("cnn", seed + 1_000_000), CE(), biased, epochs=3, seed=seed)
    data = clothes(ids[:3100])
    data = Data(data.x, torch.where(torch.arange(3100) < 100, data.y, UNLABELLED), classes=10)
    choice = clothes(draw(500, seed, first=POOL))

    def student(method: Objective) -> Run:
        fields = {} if isinstance(method, CE) else {"teacher": told(teacher, data)}
        return fit(net("cnn", seed), method, data, epochs=6, seed=seed, batch_size=16, unlabelled=3, **fields)

    run = student(objective("dho"))
    head = next(module for module in run.students[0].modules() if isinstance(module, DualHead))
    heads: dict[str, dict[Data, Tensor]] = {"labels' head": {}, "teacher's head": {}}
    for name, alpha in (("labels' head", 1.0), ("teacher's head", 0.0)):
        head.alpha.fill_(alpha)
        head.beta.fill_(1.0)
        heads[name] = {data: run.predict(run.students[0], data) for data in (choice, test)}
    head.choose(*(logits[choice] for logits in heads.values()), choice.y)
    return {
        "method": percent(run, test),
        "baseline": percent(student(OneHead()), test),
        "labels alone": percent(student(CE()), test),
        "teacher": percent(teacher, test),
    } | {name: 100 * scores(logits[test], test.y)["accuracy"] for name, logits in heads.items()}


# --- crops --------------------------------------------------------------------------------------------------------


def scenes(data: Data, seed: int) -> Tensor:
    """A digit somewhere on a canvas of 12 x 12, among four pieces of 4 x 4 of other digits."""
    g = torch.Generator().manual_seed(seed)
    n = len(data)
    canvas = torch.zeros(n, 1, 12, 12, dtype=torch.uint8)
    for i in range(n):
        for _ in range(4):
            other, (top, left), (down, right) = (
                int(torch.randint(n, (), generator=g)),
                torch.randint(9, (2,), generator=g).tolist(),
                torch.randint(5, (2,), generator=g).tolist(),
            )
            canvas[i, :, top : top + 4, left : left + 4] = data.x[other, :, down : down + 4, right : right + 4]
        top, left = torch.randint(5, (2,), generator=g).tolist()
        canvas[i, :, top : top + 8, left : left + 8] = data.x[i]
    return canvas


def crop(x: Tensor, draw: Draw) -> Tensor:
    """A square of 30 to 100 % of the area, anywhere, at the image's size."""
    u = draw("crop", 3)
    side = (0.3 + 0.7 * u[:, 0]).sqrt()
    right, down = ((2 * u[:, i] - 1) * (1 - side) for i in (1, 2))
    zero = torch.zeros_like(side)
    rows = torch.stack([torch.stack([side, zero, right], 1), torch.stack([zero, side, down], 1)], 1)
    return F.grid_sample(x, F.affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)


@check(
    "ferkd",
    baseline="the teacher's probabilities of all crops",
    claim="without the crops that tell nothing, with labels for those that the teacher is unsure of, more is learnt",
    settings={
        "data": "digits among clutter on 12 x 12, in crops of 30 to 100 %",
        "teacher": "cnnx2",
        "student": "cnn",
        "epochs": 15,
        "thresholds": "the surest 80 % of crops keep the teacher's word, the least sure 5 % are dropped",
    },
)
def ferkd(seed: int) -> Arms:
    train, test = digits()
    views = {"x": crop}
    data = Data(scenes(train, seed), train.y, views=views, classes=10)
    test = Data(scenes(test, seed + 1), test.y, classes=10)
    teacher = fit(net("cnnx2", seed + 1_000_000, size=12), CE(), data, epochs=15, seed=seed + 1_000_000)
    batch = next(data.batches([torch.arange(len(data))], seed=seed))
    with torch.no_grad():
        sure = teacher.students[0].eval()(batch.view("x")).logits.softmax(1).amax(1)
    low, middle = sure.quantile(torch.tensor([0.05, 0.2])).tolist()
    arms = {"teacher": percent(teacher, test), "low": low, "middle": middle}
    for arm, method in (
        ("method", f"ferkd(low={low}, middle={middle}, high=1.0, eps=0.1)"),
        ("baseline", "KL(1.0)"),
        ("drops only", f"ferkd(low={low}, middle={low}, high=1.0, eps=0.1)"),
        ("labels", "supervised"),
    ):
        fields = {} if arm == "labels" else {"teacher": teacher.students[0]}
        run = fit(net("cnn", seed, size=12), objective(method), data, epochs=15, seed=seed, **fields)
        arms[arm] = percent(run, test)
    return arms


# --- distortions --------------------------------------------------------------------------------------------------


def placed(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Digits on a canvas of 16 x 16, so many pixels off its middle."""
    canvas = torch.zeros(len(x), 1, 16, 16, dtype=x.dtype)
    for i, (r, d) in enumerate(zip(right.tolist(), down.tolist(), strict=True)):
        canvas[i, :, 4 + d : 12 + d, 4 + r : 12 + r] = x[i]
    return canvas


@check(
    "hard",
    baseline="kd, alpha 1",
    claim="a student that saw centred images only learns from its teacher to stand shifts, where plain distillation "
    "does not",
    figure="accuracy on images shifted by up to 4 of 16 pixels",
    settings={
        "data": "600 digits on 16 x 16, centred",
        "teacher": "cnn, trained with shifts",
        "student": "mlp",
        "epochs": 60,
        "moves": "shifts only",
    },
)
def hard(seed: int) -> Arms:
    train, test = digits()
    train = subset(train, draw(600, seed, of=len(train)))
    g = torch.Generator().manual_seed(seed)
    middle = torch.zeros(len(train), dtype=torch.long)
    centred = Data(placed(train.x, middle, middle), train.y, classes=10)
    shifted = Data(placed(test.x, *torch.randint(-4, 5, (2, len(test)), generator=g)), test.y, classes=10)
    many = [placed(train.x, *torch.randint(-4, 5, (2, len(train)), generator=g)) for _ in range(10)]
    moved = Data(torch.cat(many), train.y.repeat(10), classes=10)
    teacher = fit(net("cnn", seed + 1_000_000, size=16), CE(), moved, epochs=3, seed=seed + 1_000_000)
    arms = {"teacher": percent(teacher, shifted)}
    example = registry.find("hard").example
    for arm, method, data, epochs in (
        ("method", HARD(**example, moves=("right", "down")), centred, 60),
        ("baseline", KL(4.0), centred, 60),
        ("all moves", objective("hard"), centred, 60),
        ("random shifts", KL(4.0), moved, 6),
    ):
        student = net("mlp", seed, size=16)
        run = fit(student, method, data, epochs=epochs, seed=seed, teacher=teacher.students[0])
        arms[arm] = percent(run, shifted)
    return arms


# --- subclasses ---------------------------------------------------------------------------------------------------


@check(
    "lelp",
    baseline="kd, tau 1",
    claim="with two classes, pseudo-subclasses of the teacher's embedding teach more than its probabilities, by 0.4 "
    "points",
    margin=0.4,
    settings={
        "data": "Fashion-MNIST 14 x 14 as two classes, 500 images",
        "models": "cnn, the teacher's trained on 6,000 images",
        "epochs": 40,
        "subclasses": 5,
    },
)
def lelp(seed: int) -> Arms:
    teacher = two_classes_teacher()
    data, test = two_classes(clothes(draw(500, seed))), two_classes(held_out())
    arms = {"teacher": percent(teacher, test)}
    for arm, method in (
        ("method", objective("lelp")),
        ("baseline", KL(1.0)),
        ("labels", CE()),
        ("subclasses without directions", LELP(5, 0.0, 1.0)),
    ):
        fields = {} if arm == "labels" else {"teacher": teacher.students[0]}
        run = fit(net("cnn", seed, classes=2), method, data, epochs=40, seed=seed, **fields)
        arms[arm] = percent(run, test)
    return arms


def two_classes(data: Data) -> Data:
    """Confusable kinds apart: T-shirt, pullover, sneaker, bag and boot against the rest."""
    return Data(data.x, torch.isin(data.y, torch.tensor([0, 2, 7, 8, 9])).long(), classes=2)


@cache
def two_classes_teacher() -> Run:
    data = two_classes(clothes(torch.arange(POOL)))
    return fit(net("cnn", 1_000_000, classes=2), CE(), data, epochs=6, seed=1_000_000)


# --- aspects ------------------------------------------------------------------------------------------------------

#: Has sleeves, long ones, legs, covers the upper body, opens in front, is worn on the feet, shows skin of the foot, has
#: a high shaft, has a handle, reaches the knees, is knitted, has a collar: by class of Fashion-MNIST.
ASPECTS = torch.tensor(
    [
        [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.1],
        [0.0, 0.0, 1.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.2],
        [0.5, 0.2, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 0.0, 1.0, 0.1, 0.1],
        [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.1, 0.7],
        [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.7, 0.0, 1.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.8],
        [0.0, 0.0, 0.0, 0.0, 0.3, 1.0, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.3, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


@check(
    "makd",
    baseline="supervised",
    claim="answers to yes-or-no questions about each image help where labels are few, by 1 point",
    margin=1.0,
    settings={
        "data": "Fashion-MNIST 14 x 14, 300 images",
        "answers": "to 12 questions, by the class probabilities of a cnnx2 of 6,000 images",
        "student": "cnn",
        "epochs": 40,
    },
)
def makd(seed: int) -> Arms:
    data, test = clothes(draw(300, seed)), held_out()
    seen = told(of_pool(), data).logits.softmax(1) @ ASPECTS
    arms = {}
    for arm, method, answers in (
        ("method", "makd", seen),
        ("baseline", "supervised", None),
        ("answers by class", "makd", ASPECTS[data.y]),
    ):
        fields = {} if answers is None else {"teacher": Answers(answers.clamp(0, 1))}
        arms[arm] = percent(fit(net("cnn", seed), objective(method), data, epochs=40, seed=seed, **fields), test)
    return arms
