"""Methods that compare predictions with labels in other ways; most are judged by something else than accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor, nn

from bench.effects.core import Arms, check, objective
from bench.effects.toys import Told, clothes, digits, draw, fit, held_out, layers, net, percent
from limbeck import CE, AdamW, Data, Run
from limbeck.evaluate import scores
from limbeck.losses.feature import mse
from limbeck.losses.label import bias_weight, feature_variance
from limbeck.losses.value import expected, mid_points
from limbeck.models.calibrated import Calibrated
from limbeck.objective import Objective, Terms
from limbeck.step import Step

# --- overlap: 8 against the other digits, 30 of which are known ---------------------------------------------------

EIGHTS = {"data": "digits, 8 or not, 30 eights", "student": "MLP 64-8-2", "adam": 0.01, "batch_size": 256}


def eights(seed: int, count: int) -> tuple[Data, Data]:
    train, test = digits()
    yes = (train.y == 8).nonzero()[:, 0]
    known = yes[torch.randperm(len(yes), generator=torch.Generator().manual_seed(seed))[:count]]
    ids = torch.cat([(train.y != 8).nonzero()[:, 0], known])
    return tuple(Data(x, (y == 8).long(), classes=2) for x, y in ((train.x[ids], train.y[ids]), (test.x, test.y)))


@cache
def finds_eights(
    method: str, seed: int, *, epochs: int = 40, count: int = 30, zero: bool = False
) -> tuple[float, float]:
    """F1 and balanced accuracy on the test set. count: of eights. zero: start the last layer at zero."""
    data, test = eights(seed, count)
    student = layers(64, 8, 2, seed=seed)
    if zero:
        for p in student[-1].parameters():
            nn.init.zeros_(p)
    run = fit(
        student,
        objective(method),
        data,
        epochs=epochs,
        seed=seed,
        batch_size=256,
        optimizer=AdamW(0.01, weight_decay=0.0),
    )
    said = run.predict(run.students[0], test).argmax(1)
    rare = data.y.sum() / (data.y == 0).sum() * (test.y == 0).sum() / test.y.sum()  # as rare as in training
    weight = torch.where(test.y == 1, rare, 1.0)
    return 100 * f1_score(test.y, said, sample_weight=weight), 100 * balanced_accuracy_score(test.y, said)


@check(
    "dice_binary",
    baseline="supervised",
    claim="finds a rare class within a budget in which cross-entropy does not, by 30 points of F1",
    figure="F1",
    margin=30.0,
    settings={**EIGHTS, "epochs": 40},
)
def dice_binary(seed: int) -> Arms:
    return {
        "method": finds_eights("dice_binary", seed)[0],
        "baseline": finds_eights("supervised", seed)[0],
        "method, 4 x epochs": finds_eights("dice_binary", seed, epochs=160)[0],
        "baseline, 4 x epochs": finds_eights("supervised", seed, epochs=160)[0],
    }


@check(
    "dice",
    baseline="supervised",
    claim="finds a rare class better than cross-entropy, by F1",
    figure="F1",
    settings={**EIGHTS, "epochs": 160},
)
def dice(seed: int) -> Arms:
    return {
        "method": finds_eights("dice", seed, epochs=160)[0],
        "baseline": finds_eights("supervised", seed, epochs=160)[0],
        "method, 40 epochs": finds_eights("dice", seed)[0],
        "baseline, 40 epochs": finds_eights("supervised", seed)[0],
        "alpha 1": finds_eights("Dice(1.0)", seed, epochs=160)[0],
        "dice_binary": finds_eights("dice_binary", seed, epochs=160)[0],
        "method, all 126 eights": finds_eights("dice", seed, epochs=160, count=126)[0],
        "baseline, all 126 eights": finds_eights("supervised", seed, epochs=160, count=126)[0],
    }


@check(
    "anyloss",
    baseline="supervised",
    claim="trained for F1 it has 30 points more of it than cross-entropy at a small budget",
    figure="F1",
    margin=30.0,
    settings={**EIGHTS, "epochs": 40, "start": "last layer at zero, but for one arm"},
)
def anyloss(seed: int) -> Arms:
    mean = "anyloss(metric='balanced_accuracy')"
    return {
        "method": finds_eights("anyloss", seed, zero=True)[0],
        "baseline": finds_eights("supervised", seed, zero=True)[0],
        "for balanced accuracy": finds_eights(mean, seed, zero=True)[0],
        "balanced accuracy": finds_eights("anyloss", seed, zero=True)[1],
        "balanced accuracy, for it": finds_eights(mean, seed, zero=True)[1],
        "balanced accuracy, baseline": finds_eights("supervised", seed, zero=True)[1],
        "random start": finds_eights("anyloss", seed)[0],
    }


# --- numbers as classes: a digit's value with noise of heavy tails ------------------------------------------------

LOW, HIGH, BINS = -5.0, 14.0, 51


@dataclass(frozen=True)
class Regression(Objective):
    """Squared error of the only logit."""

    def loss(self, step: Step, state: Any) -> Terms:
        return {"mse": mse(step.student("x").logits, step.teacher("x").logits)}


@cache
def reads_numbers(method: str, seed: int, noise: float) -> float:
    """Logarithm of the mean squared error of the student's number on the test set, against the true one: the claim is
    of a ratio, and with noise of infinite variance one seed's error would drown the others'."""
    train, test = digits()
    torch.manual_seed(seed)
    told = train.y + noise * torch.distributions.StudentT(2.0).sample(train.y.shape)
    bins = method != "regression"
    made = objective(f"{method}(low={LOW}, high={HIGH}, of='teacher')") if bins else Regression()
    run = fit(
        layers(64, 128, 128, BINS if bins else 1, seed=seed, activation=nn.ReLU),
        made,
        Data(train.x),
        epochs=80,
        seed=seed,
        teacher=Told(told[:, None]),
        optimizer=AdamW(0.001, weight_decay=0.0),
    )
    logits = run.predict(run.students[0], test)
    centres = mid_points(LOW, HIGH, BINS) if method == "hl_gauss" else torch.linspace(LOW, HIGH, BINS)
    value = expected(logits, centres) if bins else logits[:, 0]
    return float((value - test.y).square().mean().log())


def number(method: str, seed: int) -> Arms:
    return {
        f"{arm}, noise {noise}" if noise != 1 else arm: reads_numbers(each, seed, float(noise))
        for noise in (1, 0, 2)
        for arm, each in (("method", method), ("baseline", "regression"))
    }


for name in ("hl_gauss", "two_hot"):
    check(
        name,
        baseline="squared error",
        claim="a noisy number is learnt better as a class than by squared error, with 0.8 of its error at most",
        figure="log of the squared error on clean numbers, noise 1",
        better=-1,
        margin=-math.log(0.8),
        settings={"data": "digits, value + noise * Student-t(2)", "student": "MLP 64-128-128", "epochs": 80},
    )(lambda seed, name=name: number(name, seed))


# --- calibration --------------------------------------------------------------------------------------------------


class Tempered(nn.Module):
    """One temperature for all."""

    def __init__(self, classifier: Run) -> None:
        super().__init__()
        self.net = [classifier.students[0]]  # not a child: it stays as it is
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.net[0].eval()(x).logits
        return logits / self.temperature


def noisy(x: Tensor, size: float, seed: int) -> Tensor:
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@check(
    "ca_calibration",
    baseline="temperature scaling",
    claim="less calibration error than temperature scaling out of distribution, by 5 points",
    figure="calibration error (%), noise twice that of the calibration set",
    better=-1,
    margin=5.0,
    settings={"data": "digits, 400 for the MLP, the rest + noise 0.25 to calibrate", "adam": 0.01, "steps": 300},
)
def ca_calibration(seed: int) -> Arms:
    train, test = digits()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    x, y = train.x[order] / 255, train.y[order]
    net = fit(
        layers(64, 128, 10, seed=seed, activation=nn.ReLU),
        CE(),
        Data(x[:400], y[:400], classes=10),
        epochs=60,
        seed=seed,
        optimizer=AdamW(0.003),
    )
    calibrate = Data(noisy(x[400:], 0.25, seed), y[400:], classes=10)
    copies = (
        lambda x: x.roll(1, -1),
        lambda x: x.roll(1, -2),
        lambda x: noisy(x, 0.3, seed + 1),
    )

    def calibrator() -> nn.Module:
        torch.manual_seed(seed)
        return Calibrated(net.students[0].module, copies)

    def errors(student: nn.Module, method: Objective) -> tuple[float, float]:
        run = fit(
            student,
            method,
            calibrate,
            epochs=300,
            seed=seed,
            batch_size=len(calibrate),
            optimizer=AdamW(0.01, weight_decay=0.0),
        )
        return judged(lambda data: run.predict(run.students[0], data))

    def judged(predict: Callable[[Data], Tensor]) -> tuple[float, float]:
        sets = (Data(noisy(test.x / 255, size, seed + 2), test.y, classes=10) for size in (0.5, 0.25))
        return tuple(100 * scores(predict(data), data.y)["ece"] for data in sets)

    found = {
        "method": errors(calibrator(), objective("ca_calibration")),
        "baseline": errors(Tempered(net), CE()),
        "cross-entropy": errors(calibrator(), CE()),
        "not balanced": errors(calibrator(), objective("ca_calibration(balance=False)")),
        "uncalibrated": judged(lambda data: net.predict(net.students[0], data)),
    }
    return {arm: far for arm, (far, _) in found.items()} | {f"{arm}, same noise": n for arm, (_, n) in found.items()}


# --- coverage -----------------------------------------------------------------------------------------------------


@check(
    "dco",
    baseline="supervised",
    claim="among 16 samples from an over-trained student one is right more often",
    figure="pass@16 (%)",
    settings={"data": "Fashion-MNIST 14 x 14, 500 images", "student": "mlp", "adamw": 0.001, "epochs": 100, "n": 16},
)
def dco(seed: int) -> Arms:
    test = held_out()

    def passes(method: str) -> dict[str, float]:
        run = fit(
            net("mlp", seed),
            objective(method),
            clothes(draw(500, seed)),
            epochs=100,
            seed=seed,
            optimizer=AdamW(0.001, weight_decay=0.0),
        )
        p = run.predict(run.students[0], test).softmax(1).gather(1, test.y[:, None])
        return {f"pass@{n}": 100 * float((1 - (1 - p) ** n).mean()) for n in (16, 4, 1)} | {
            "accuracy": percent(run, test)
        }

    found = {arm: passes(each) for arm, each in (("method", "dco"), ("baseline", "supervised"), ("n = 4", "dco(n=4)"))}
    return {arm: each.pop("pass@16") for arm, each in found.items()} | {
        f"{arm}, {name}": value for arm, each in found.items() for name, value in each.items()
    }


# --- weights and branches -----------------------------------------------------------------------------------------


@check(
    "bias_loss",
    baseline="supervised",
    claim="a small convolutional network gets better where examples with poor features count less",
    settings={"data": "Fashion-MNIST 14 x 14, 3,000 images", "student": "cnn", "epochs": 10},
)
def bias_loss(seed: int) -> Arms:
    test = held_out()
    arms = {}
    # weights are 0.81 on average, so that plain cross-entropy learns faster: one arm takes that from its learning rate
    for arm, method in (("method", "bias_loss"), ("baseline", "supervised"), ("at 0.81 of the rate", "0.81 * CE()")):
        run = fit(net("cnn", seed), objective(method), clothes(draw(3000, seed)), epochs=10, seed=seed)
        arms[arm] = percent(run, test)
        if arm == "method":
            arms |= faint_weights(run, test)
    return arms


@torch.no_grad()
def faint_weights(run: Run, test: Data) -> Arms:
    """Mean weights of images and of their copies with a tenth of the contrast, in one batch."""
    net, x = run.students[0].eval(), test.x[:200] / 255
    net.read(["layer3"])
    weight = bias_weight(feature_variance(net(torch.cat([x, 0.1 * x]))["layer3"]))
    return {"weight": float(weight[:200].mean()), "weight, faint copies": float(weight[200:].mean())}


class Branch(nn.Module):
    """Two self-masked cross layers of FCN: orders of interaction grow by powers of two, or one by one."""

    def __init__(self, width: int, *, exponential: bool) -> None:
        super().__init__()
        self.exponential = exponential
        self.cross = nn.ModuleList(nn.Linear(width, width // 2, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width // 2) for _ in range(2))
        self.biases = nn.ParameterList(torch.rand(width) for _ in range(2))
        self.last = nn.Linear(width, 2)

    def forward(self, first: Tensor) -> Tensor:
        x = first
        for cross, norm, bias in zip(self.cross, self.norms, self.biases, strict=True):
            c = cross(x)
            mixed = torch.cat([c, c * norm(c).relu()], 1) + bias
            x = (x if self.exponential else first) * mixed + x
        logits: Tensor = self.last(x)
        return logits


class Crossed(nn.Module):
    """Fields (b, fields) of ten levels, embedded; the mean of both branches' logits."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(10 * fields, 8)
        self.deep, self.shallow = (Branch(8 * fields, exponential=e) for e in (True, False))

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x + 10 * torch.arange(x.shape[1])).flatten(1)
        logits: Tensor = (self.deep(e) + self.shallow(e)) / 2
        return logits


def clicks(seed: int, n: int = 20_000, fields: int = 10) -> tuple[Tensor, Tensor]:
    """Levels of some fields, and whether a click followed: by effects of each level and of each pair."""
    g = torch.Generator().manual_seed(seed)
    alone, vectors = torch.randn(fields, 10, generator=g), torch.randn(fields, 10, 4, generator=g)
    x = torch.randint(10, (n, fields), generator=g)
    v = vectors[torch.arange(fields), x]
    pairs = (v.sum(1).square().sum(1) - v.square().sum((1, 2))) / 2
    logit = alone[torch.arange(fields), x].sum(1) + pairs / fields - 1
    return x, torch.bernoulli(logit.sigmoid(), generator=g).long()


def cancers(seed: int) -> tuple[Tensor, Tensor]:
    """Breast cancer, each of 30 measures as the tenth of the examples that it is in."""
    found = load_breast_cancer()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(seed))
    values, y = torch.from_numpy(found.data)[order], torch.from_numpy(found.target)[order].long()
    cuts = values.quantile(torch.arange(1, 10).double() / 10, dim=0)
    return (values[:, :, None] > cuts.T).sum(2), y


def branches(x: Tensor, y: Tensor, method: Objective, seed: int, epochs: int) -> tuple[float, float]:
    """AUC of the branches alone, on average, and of both together; half of the data is for training."""
    half, fields = len(x) // 2, x.shape[1]
    torch.manual_seed(seed)
    run = fit(
        Crossed(fields),
        method,
        Data(x[:half], y[:half], classes=2),
        epochs=epochs,
        seed=seed,
        optimizer=AdamW(0.001, weight_decay=0.0),
    )
    net = run.students[0]
    net.read(["deep", "shallow"])
    with torch.no_grad():
        output = net.eval()(x[half:])
    deep, shallow, both = (
        100 * roc_auc_score(y[half:], logits[:, 1] - logits[:, 0])
        for logits in (output["deep"], output["shallow"], output.logits)
    )
    return (deep + shallow) / 2, both


@check(
    "tri_bce",
    baseline="cross-entropy of the mean",
    claim="each branch gets better on its own, by 1 point",
    figure="AUC (%), mean of the branches alone",
    margin=1.0,
    settings={"data": "10,000 synthetic clicks, 10 fields of 10 levels", "student": "FCN", "adam": 0.001, "epochs": 2},
)
def tri_bce(seed: int) -> Arms:
    arms = {}
    for arm, method in (("method", objective("tri_bce(layers=('deep', 'shallow'))")), ("baseline", CE())):
        for epochs, more in ((2, ""), (5, ", 5 epochs")):
            arms[arm + more], arms[f"{arm}, both together{more}"] = branches(*clicks(seed), method, seed, epochs)
        arms[f"{arm}, breast cancer"], _ = branches(*cancers(seed), method, seed, epochs=30)
    return arms
