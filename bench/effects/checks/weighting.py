"""Methods of the family weighting: which examples, or which teachers, to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from bench.effects.core import Arms, check, objective
from bench.effects.toys import POOL, clothes, draw, fit, held_out, net, percent, told
from limbeck import CE, UNLABELLED, AdamW, Data, Run
from limbeck.blocks.weighting import LLKD, RAD
from limbeck.data.named import noisy_labels
from limbeck.losses.logit import cross_entropy
from limbeck.objective import Terms
from limbeck.similarity import parc
from limbeck.step import Step

# --- which pseudo-labels ------------------------------------------------------------------------------------------

FEW = {"data": "Fashion-MNIST 14 x 14", "student": "mlp"}


@dataclass(frozen=True)
class Chosen(LLKD):
    """LLKD by one of its two signals, or by neither; it counts what it learns from."""

    by: Literal["both", "confidence", "uncertainty", "none"] = "both"

    def init(self, run: Run) -> nn.Module:
        state = super().init(run)
        state.register_buffer("used", torch.tensor(0))
        return state

    def loss(self, step: Step, state: Any) -> Terms:
        if self.by == "both":
            terms = super().loss(step, state)
            state.used += (terms["pseudo"] != 0).sum()
            return terms
        logits = step.student("x").logits
        confidence, label = step.teacher("x").logits.softmax(1).max(1)
        p = logits.detach().softmax(1)
        uncertainty = cross_entropy(logits.detach(), p)
        step.keep(confidence=confidence, uncertainty=uncertainty, label=label)
        score, name = (confidence, "sure") if self.by == "confidence" else (uncertainty, "unsure")
        level = state.level(name).after(score, label, self.momentum)
        weight = torch.ones_like(score) if self.by == "none" else score * (score > level.thresholds[label])
        count = (weight > 0).sum()
        state.used += count
        return {"pseudo": weight * cross_entropy(logits, label) * step.rows / count.clamp(min=1)}


@check(
    "llkd",
    baseline="all of the teacher's labels",
    claim="better, and with a fraction of the examples: those of which the teacher is sure and the student not",
    settings={
        **FEW,
        "unlabelled": 6000,
        "teacher": "mlp of 300 images",
        "adamw": 0.001,
        "batch_size": 128,
        "epochs": 20,
        "momentum": 0.99,
    },
)
def llkd(seed: int) -> Arms:
    test = held_out()
    teacher = fit(
        net("mlp", seed + 1_000_000),
        CE(),
        clothes(draw(300, seed)),
        epochs=40,
        seed=seed + 1_000_000,
        optimizer=AdamW(0.001),
    )
    data = Data(clothes(draw(6000, seed, first=POOL)).x)
    arms = {"teacher": percent(teacher, test)}
    for arm, by in (("method", "both"), ("baseline", "none"), ("sure", "confidence"), ("unsure", "uncertainty")):
        run = fit(
            net("mlp", seed),
            Chosen(0.99, by),
            data,
            epochs=20,
            seed=seed,
            teacher=told(teacher, data),
            batch_size=128,
            optimizer=AdamW(0.001),
        )
        arms |= {arm: percent(run, test), f"{arm}, used (%)": 100 * float(run.bundle.state.used) / (20 * 6000)}
    return arms


# --- which questions ----------------------------------------------------------------------------------------------


@check(
    "rad",
    baseline="the smallest margins first",
    claim="asked about examples drawn against an adversary, a teacher that errs teaches more",
    settings={
        **FEW,
        "labels": 200,
        "pool": 5800,
        "teacher": "mlp of 1,000 images",
        "queries": "3 x 300",
        "adamw": 0.001,
        "batch_size": 32,
        "epochs": 8,
    },
)
def rad(seed: int) -> Arms:
    ids, test = draw(POOL, seed), held_out()
    teacher = fit(
        net("mlp", seed + 1_000_000),
        CE(),
        clothes(draw(1000, seed, first=POOL)),
        epochs=20,
        seed=seed + 1_000_000,
        optimizer=AdamW(0.001),
    )
    truth = clothes(ids)
    data = Data(truth.x, torch.where(torch.arange(POOL) < 200, truth.y, UNLABELLED), classes=10)
    answers = told(teacher, data)
    errs = answers.logits.argmax(1) != truth.y
    arms = {"teacher": percent(teacher, test), "errs in the pool (%)": 100 * float(errs[200:].float().mean())}
    # a share of wrong answers of 1 makes the draw uniform, one of 0 takes the largest gains
    for arm, wrong in (("method", 1 - arms["teacher"] / 100), ("baseline", 0.0), ("uniform", 1.0)):
        run = fit(
            net("mlp", seed),
            RAD(300, 3, wrong),
            data,
            epochs=8,
            seed=seed,
            teacher=answers,
            batch_size=32,
            unlabelled=3,
            optimizer=AdamW(0.001),
        )
        asked = run.bundle.state.place >= 0
        arms |= {arm: percent(run, test), f"{arm}, errs (%)": 100 * float(errs[asked].float().mean())}
    return arms


# --- which teachers -----------------------------------------------------------------------------------------------

#: Shoes. Of pullover, coat or shirt 15 labels tell so little (47 %) that no source helps.
TARGET = (5, 7, 9)
SOURCES = ((1, 5, 7, 8), (2, 4, 8, 9), (0, 2, 4, 6), (0, 3, 4, 9), (1, 5, 7, 9))
TASKS = {
    "data": "Fashion-MNIST 14 x 14: sandal, sneaker or boot, 5 labels each, 600 images without",
    "sources": "five cnn of four classes each, 800 images, the last with random labels",
    "student": "cnn",
    "weight": 0.8,
    "epochs": 20,
}


@cache
def sources(seed: int) -> list[Run]:
    found = []
    for i, classes in enumerate(SOURCES):
        data = clothes(draw(800, seed + 1000 * i, first=POOL, of=6000, classes=classes))
        y = torch.searchsorted(torch.tensor(classes), data.y)
        if i == len(SOURCES) - 1:
            y = noisy_labels(y, 0.75, seed=seed, classes=4)
        student = net("cnn", seed + 1_000_000 + i, classes=4)
        found.append(fit(student, CE(), Data(data.x, y, classes=4), epochs=8, seed=seed + 1_000_000 + i))
    return found


@cache
def target(seed: int) -> tuple[Data, Data]:
    def of(data: Data) -> Data:
        rows = torch.isin(data.y, torch.tensor(TARGET))
        return Data(data.x[rows], torch.searchsorted(torch.tensor(TARGET), data.y[rows]), classes=3)

    data = of(clothes(draw(POOL, seed)))
    known = torch.cat([(data.y == c).nonzero()[:5, 0] for c in range(3)])
    rest = torch.ones(len(data), dtype=torch.bool).index_fill(0, known, False).nonzero()[:600, 0]
    x, y = data.x[torch.cat([known, rest])], data.y[torch.cat([known, rest])]
    return Data(x, torch.where(torch.arange(len(y)) < 15, y, UNLABELLED), classes=3), of(held_out())


@cache
def similarities(seed: int) -> list[float]:
    data, _ = target(seed)
    found = []
    for source in sources(seed):
        net = source.students[0].eval()
        net.read([".embedding"])
        with torch.no_grad():
            found.append(parc(net(data.x[:15] / 255).embedding, data.y[:15]))
    return found


@cache
def taught(seed: int, method: str, members: tuple[int, ...]) -> float:
    data, test = target(seed)
    teachers: Any = [sources(seed)[i].students[0] for i in members]
    run = fit(
        net("cnn", seed, classes=3),
        objective(method),
        data,
        epochs=20,
        seed=seed,
        teacher=teachers or None,
        batch_size=15,
        unlabelled=3,
    )
    return percent(run, test)


EVERYBODY = tuple(range(len(SOURCES)))


@check(
    "distill_nearest",
    baseline="the least similar source",
    claim="the source whose embedding fits the task's labels best teaches 3 points more than the worst",
    margin=3.0,
    settings=TASKS,
)
def distill_nearest(seed: int) -> Arms:
    e = similarities(seed)
    return {
        "method": taught(seed, "distill_nearest", EVERYBODY),
        "baseline": taught(seed, "distill_nearest", (e.index(min(e)),)),
        "random labels": taught(seed, "distill_nearest", (len(SOURCES) - 1,)),
        "labels alone": taught(seed, "CE()", ()),
        "similarity, random labels": e[-1],
        "similarity, nearest": max(e),
        "similarity, farthest": min(e),
    }


@check(
    "distill_weighted",
    baseline="all sources alike",
    claim="sources that count by their similarity teach no worse than sources that count alike",
    settings={**TASKS, "power": 4.0},
)
def distill_weighted(seed: int) -> Arms:
    return {
        "method": taught(seed, "distill_weighted(weight=0.8, power=4.0)", EVERYBODY),
        "baseline": taught(seed, "distill_weighted(weight=0.8, power=0.0)", EVERYBODY),
        "power 12": taught(seed, "distill_weighted", EVERYBODY),
        "nearest": taught(seed, "distill_nearest", EVERYBODY),
        "labels alone": taught(seed, "CE()", ()),
    }
