"""Methods of the family pipeline: their point is which examples, teacher, start or order of runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from bench.effects.core import Arms, check, objective
from bench.effects.toys import (
    POOL,
    Told,
    clothes,
    digits,
    draw,
    fit,
    held_out,
    net,
    of_pool,
    percent,
    told,
)
from limbeck import CE, KL, SGD, AdamW, Cosine, Data, Run
from limbeck.blocks.soft import Brier, WeightNorms, probabilities
from limbeck.blocks.trilateral import trilateral
from limbeck.data.select import el2n, prune, random_scores, topk_per_class
from limbeck.models.cell import cell_cnn
from limbeck.models.cnn import conv_bn_relu, three_stages
from limbeck.models.projection import projection
from limbeck.procedures import chain, select
from limbeck.procedures.guided import ridge_generation
from limbeck.procedures.start import blend
from limbeck.signals import Net
from limbeck.targets import one_hot

# --- a student on smaller images ----------------------------------------------------------------------------------


@check(
    "cell_sorting",
    baseline="supervised",
    claim="a student of 2,650 parameters on smaller images gains half a point by its teacher's probabilities",
    margin=0.5,
    settings={
        "data": "Fashion-MNIST, 14 x 14 for the teacher, 10 x 10 for the student, 3,000 images",
        "teacher": "cnnx2 of 6,000 images",
        "student": "cell_cnn",
        "optimizer": "AdamW(0.001, weight_decay=0.0001), clip 1",
        "epochs": 30,
    },
)
def cell_sorting(seed: int) -> Arms:
    data, test = clothes(draw(3000, seed)), held_out()
    teacher = of_pool()
    arms = {"teacher": percent(teacher, test)}
    for arm, method in (("method", "cell_sorting"), ("baseline", "supervised")):
        torch.manual_seed(seed)
        student = Net(cell_cnn(channels=1, classes=10, size=(10, 10)), inputs=nn.AdaptiveAvgPool2d(10))
        run = fit(
            student,
            objective(method),
            data,
            epochs=30,
            seed=seed,
            teacher=told(teacher, data),
            optimizer=AdamW(0.001, weight_decay=0.0001),
            clip=1.0,
        )
        arms[arm] = percent(run, test)
    return arms


# --- generations --------------------------------------------------------------------------------------------------


@check(
    "even_your_teacher",
    baseline="alpha 0, the previous generation alone",
    claim="after five generations the truth as a guide keeps what self-distillation alone loses",
    settings={
        "data": "digits, 300 images",
        "student": "mlp",
        "generations": 5,
        "adam": 0.001,
        "epochs": 75,
        "alpha": 0.4,
        "ridge": "11 noisy points of a sinusoid, RBF kernel with gamma 80, ridge 0.2, 6th generation",
    },
)
def even_your_teacher(seed: int) -> Arms:
    train, test = digits()
    ids = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:300]
    data = Data(train.x[ids], train.y[ids], classes=10)
    first = fit(
        net("mlp", seed, size=8),
        Brier() + 1e-4 * WeightNorms(),
        data,
        epochs=75,
        seed=seed,
        batch_size=32,
        optimizer=AdamW(0.001, weight_decay=0.0),
    )
    arms = {"first generation": percent(first, test)}
    for arm, alpha in (("method", 0.4), ("baseline", 0.0)):
        run = Run(
            student=net("mlp", seed + 1, size=8),
            teacher=first.students[0],
            method=objective(f"even_your_teacher(alpha={alpha})"),
            data=data,
            epochs=75,
            seed=seed,
            batch_size=32,
            optimizer=AdamW(0.001, weight_decay=0.0),
            accelerator="cpu",
        )
        runs = chain.chain(run, [run.student, *(net("mlp", seed + i, size=8) for i in (2, 3, 4))])
        arms |= {arm: percent(runs[-1], test)} | {f"{arm}, confidence": confidence(runs[-1], test)}
    return arms | ridge(seed)


def confidence(run: Run, test: Data) -> float:
    return 100 * float(run.predict(run.students[0], test).softmax(1).amax(1).mean())


def ridge(seed: int) -> Arms:
    """Squared error to the true curve."""
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    true = (2 * torch.pi * x).sin()[:, None]
    kernel = (-80 * (x[:, None] - x[None]).square()).exp()
    g = torch.Generator().manual_seed(seed)
    y = true + 0.5 * torch.randn(11, 1, generator=g, dtype=torch.float64)
    fits = {alpha: ridge_generation(kernel, y, ridge=0.2, alpha=alpha, step=6) for alpha in (0.0, 0.25)}
    return {f"ridge, alpha {alpha}": float((fit - true).square().mean()) for alpha, fit in fits.items()}


# --- fewer examples -----------------------------------------------------------------------------------------------


@check(
    "kd_data_pruning",
    baseline="supervised on the same examples",
    claim="with a teacher of all examples a random fiftieth of them teaches 3 points more; hard ones, ruinous without "
    "it, become usable, but random ones stay the best",
    margin=3.0,
    settings={
        "data": "Fashion-MNIST 14 x 14, 120 of 6,000 images, at random or the hardest by EL2N",
        "teacher": "cnnx2 of all",
        "student": "cnn",
        "tau": 4.0,
        "alpha": 1.0,
        "epochs": 150,
    },
)
def kd_data_pruning(seed: int) -> Arms:
    pool, test = clothes(torch.arange(POOL)), held_out()
    early = fit(net("cnn", seed + 1000), CE(), pool, epochs=2, seed=seed + 1000)
    hardness = el2n(early.predict(early.students[0], pool), pool.y)
    teacher = told(of_pool(), pool)
    arms = {"teacher": percent(of_pool(), test)}
    for kind, score in (("", random_scores(POOL, seed=seed)), ("hardest, ", hardness)):
        ids = prune(score, 0.02)
        for arm, method in (("method", "kd_data_pruning"), ("baseline", "supervised"), ("alpha 0.5", "kd(alpha=0.5)")):
            run = Run(
                student=net("cnn", seed),
                method=objective(method),
                data=pool,
                teacher=Told(teacher.logits[ids]),
                epochs=150,
                batch_size=64,
                optimizer=SGD(Cosine(0.05)),
                seed=seed,
                accelerator="cpu",
            )
            part = select.pruned(run, ids)
            part.fit()
            arms[kind + arm] = percent(part, test)
    return arms


# --- committees ---------------------------------------------------------------------------------------------------


@check(
    "meal_v2",
    baseline="as many more epochs of labels",
    claim="two teachers' mean probabilities lift a trained student by 1 point over more training with labels",
    margin=1.0,
    settings={
        "data": "Fashion-MNIST 14 x 14, 800 images",
        "teachers": "two cnn of 6,000 images",
        "student": "cnn, trained on the labels for 25 epochs",
        "optimizer": "SGD(Cosine(0.01), weight_decay=0.0)",
        "epochs": 15,
    },
)
def meal_v2(seed: int) -> Arms:
    data, test = clothes(draw(800, seed)), held_out()
    trained = fit(net("cnn", seed), CE(), data, epochs=25, seed=seed + 1000)
    weights = {name: value.clone() for name, value in trained.students[0].state_dict().items()}
    teachers = [told(of_pool("cnn", place), data) for place in (0, 1)]
    arms = {"start": percent(trained, test), "teacher": percent(of_pool("cnn"), test)}
    for arm, method, members in (
        ("method", "meal_v2", teachers),
        ("baseline", "supervised", None),
        ("one teacher", "meal_v2", teachers[:1]),
        ("no judge", "meal_v2(judge='none')", teachers),
        ("labels too", "0.5 * CE() + 0.5 * SoftCE()", teachers),
    ):
        student = net("cnn", seed)
        student.load_state_dict(weights)
        run = fit(
            student,
            objective(method),
            data,
            epochs=15,
            seed=seed,
            teacher=members,
            optimizer=SGD(Cosine(0.01), weight_decay=0.0),
        )
        arms[arm] = percent(run, test)
    return arms


# --- random teachers ----------------------------------------------------------------------------------------------


@check(
    "random_teachers",
    baseline="its random teacher",
    claim="a student that matches a random network, from a start near it, has better features to read the class from",
    figure="accuracy of a linear probe",
    settings={
        "data": "digits, 1,000 images without labels",
        "encoder": "4 x 128 with batch normalisation",
        "head": "256, bottleneck 64, 1,024 outputs",
        "adam": 0.001,
        "steps": 1600,
        "start": "0.9 teacher + 0.1 fresh",
    },
)
def random_teachers(seed: int) -> Arms:
    train, test = digits()
    x = train.x[:1000] / 255

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        parts: list[nn.Module] = [nn.Flatten()]
        for width in (64, 128, 128, 128):
            parts += [nn.Linear(width, 128), nn.BatchNorm1d(128), nn.ReLU()]
        return nn.Sequential(nn.Sequential(*parts), projection(128, hidden=(256,), bottleneck=64, outputs=1024))

    def probe(encoder: nn.Module) -> float:
        encoder.eval()
        with torch.no_grad():
            seen, unseen = (encoder(part).numpy() for part in (x, test.x / 255))
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        return 100 * reader.fit(seen, train.y[:1000]).score(unseen, test.y)

    def student(weights: tuple[float, float], x: Tensor) -> float:
        start = blend(teacher, model(seed + 1), weights)
        run = fit(
            Net(start, head="1.0"),
            objective("random_teachers"),
            Data(x),
            epochs=200,
            seed=seed,
            teacher=teacher,
            batch_size=128,
            optimizer=AdamW(0.001, weight_decay=0.0),
        )
        return probe(run.students[0].module[0])

    teacher = model(seed)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * x.std() + x.mean()
    return {
        "method": student((0.9, 0.1), x),
        "baseline": probe(teacher[0]),
        "other start": student((0.0, 1.0), x),
        "on noise": student((0.9, 0.1), noise),
        "pixels": probe(nn.Flatten()),
    }


# --- a pool without labels ----------------------------------------------------------------------------------------


@check(
    "ssld",
    baseline="supervised on the labelled images",
    claim="the teacher's answers on the best of a pool beat the labels by 3 points at equal steps",
    margin=3.0,
    settings={
        "data": "Fashion-MNIST 14 x 14, 300 labelled images; a pool of 2,500 and 600 digits",
        "teacher": "cnnx2 of 6,000 images",
        "student": "cnn",
        "per_class": 200,
        "epochs": "8 of all chosen, 10 of 300; as many steps of 300 for the others",
    },
)
def ssld(seed: int) -> Arms:
    data, test, teacher = clothes(draw(300, seed)), held_out(), of_pool()
    strangers, _ = digits()
    strangers = F.interpolate(strangers.x[:600].float(), size=14, mode="bilinear").round().byte()
    wanted = clothes(draw(2500, seed, first=POOL))
    pool = Data(torch.cat([wanted.x, strangers]))
    sure, label = told(teacher, pool).logits.softmax(1).max(1)
    chosen = topk_per_class(sure, label, 200)
    run = Run(
        student=net("cnn", seed),
        teacher=teacher.students[0],
        method=objective("ssld"),
        data=data,
        epochs=8,
        batch_size=64,
        optimizer=SGD(Cosine(0.05)),
        seed=seed,
        accelerator="cpu",
    )
    runs = select.ssld(run, pool, per_class=200, epochs=10, optimizer=SGD(Cosine(0.005)))
    epochs = round(runs[-1].steps_done / 5 + runs[0].steps_done / 5)
    arms = {"method": percent(runs[-1], test), "teacher": percent(teacher, test)}
    for arm, method in (("baseline", CE()), ("kd, no pool", KL(4.0)), ("ssld, no pool", objective("ssld"))):
        run = fit(net("cnn", seed), method, data, epochs=epochs, seed=seed, teacher=told(teacher, data))
        arms[arm] = percent(run, test)
    return arms | {"chosen that belong (%)": 100 * float((chosen < 2500).float().mean())}


# --- assistants ---------------------------------------------------------------------------------------------------


@check(
    "takd",
    baseline="kd without the assistant",
    claim="by way of an assistant a small student learns more from a large teacher",
    settings={
        "data": "Fashion-MNIST 14 x 14, 3,000 images",
        "teacher": "cnnx2 of 6,000 images, 103,000 parameters",
        "assistant": "cnn",
        "student": "a quarter of a cnn's channels, 1,900 parameters",
        "tau": 5.0,
        "alpha": 0.5,
        "epochs": 15,
    },
)
def takd(seed: int) -> Arms:
    data, test, teacher = clothes(draw(3000, seed)), held_out(), of_pool()
    arms = {"teacher": percent(teacher, test)}

    def run(epochs: int, method: str = "takd") -> Run:
        torch.manual_seed(seed)
        return Run(
            student=three_stages(conv_bn_relu(1, 4), conv_bn_relu, blocks=1, widths=(4, 4, 8, 16), classes=10),
            teacher=told(teacher, data),
            method=objective(method),
            data=data,
            epochs=epochs,
            batch_size=64,
            optimizer=SGD(Cosine(0.05)),
            seed=seed,
            accelerator="cpu",
        )

    helped = chain.takd(run(15), [net("cnn", seed)])
    arms |= {"assistant": percent(helped[0], test), "method": percent(helped[1], test)}
    for arm, epochs, method in (
        ("baseline", 15, "takd"),
        ("baseline, 2 x epochs", 30, "takd"),
        ("labels", 15, "supervised"),
    ):
        direct = run(epochs, method)
        direct.fit()
        arms[arm] = percent(direct, test)
    return arms


# --- learned weights ----------------------------------------------------------------------------------------------


@check(
    "tgeo_kd",
    baseline="kd, alpha 0.5",
    claim="a learned share of the teacher for each example is no worse than a fixed one, and falls where it errs",
    margin=-0.3,
    settings={
        "data": "digits, 600 images",
        "teacher": "cnn of all, its answers moved to the next class on a fifth of the images",
        "student": "cnn",
        "tau": 4.0,
        "epochs": 15,
    },
)
def tgeo_kd(seed: int) -> Arms:
    train, test = digits()
    ids = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:600]
    data = Data(train.x[ids], train.y[ids], classes=10)
    known = fit(net("cnn", seed + 1_000_000, size=8), CE(), train, epochs=8, seed=seed + 1_000_000)
    logits = told(known, data).logits
    wrong = torch.rand(600, generator=torch.Generator().manual_seed(seed)) < 0.2
    teacher = Told(torch.where(wrong[:, None], logits.roll(1, 1), logits))
    arms, runs = {}, {}
    for arm, method in (
        ("method", "tgeo_kd"),
        ("baseline", "kd(alpha=0.5)"),
        ("kd, alpha 0.9", "kd(alpha=0.9)"),
        ("labels", "supervised"),
    ):
        runs[arm] = fit(net("cnn", seed, size=8), objective(method), data, epochs=15, seed=seed, teacher=teacher)
        arms[arm] = percent(runs[arm], test)
    run = runs["method"]
    s, t = (probabilities(each) for each in (run.predict(run.students[0], data), teacher.logits))
    state = run.bundle.state
    with torch.no_grad():
        alpha = state(trilateral(s, t, one_hot(data.y, 10), state.centres[data.y]))
    return arms | {"alpha, right": float(alpha[~wrong].mean()), "alpha, wrong": float(alpha[wrong].mean())}
