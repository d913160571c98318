"""Methods of the family logit, and the labels alone: those from language models on text, the others on images."""

from __future__ import annotations

from bench.effects import text
from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, accuracies, figure
from bench.effects.text import TEXT

# --- images -------------------------------------------------------------------------------------------------------


@check(
    "supervised",
    baseline="supervised",
    claim="four times the labelled images help, at equal steps",
    settings={**SHOTS, "teacher": None, "baseline": "125 of the 500 images, 240 epochs"},
)
def supervised(seed: int) -> Arms:
    return {
        "method": figure("accuracy", "supervised", seed),
        "baseline": figure("accuracy", "supervised", seed, n=125, epochs=240),
    }


@check("label_smoothing", baseline="supervised", claim="more accurate than the labels as they are", settings=SHOTS)
def label_smoothing(seed: int) -> Arms:
    return accuracies(seed, "label_smoothing", "supervised", "kd")


@check(
    "kd",
    baseline="supervised",
    claim="a small network learns more from a large one than from the labels",
    settings=SHOTS,
)
def kd(seed: int) -> Arms:
    return accuracies(seed, "kd", "supervised")


@check("standardised_kd", baseline="kd", claim="better than kd of the logits as they are", settings=SHOTS)
def standardised_kd(seed: int) -> Arms:
    return accuracies(seed, "standardised_kd", "kd", "supervised", "kd(tau=2.0)")


@check(
    "dkd",
    baseline="kd",
    claim="better than kd, in which what is said of the other classes counts less, the surer the teacher is",
    settings=SHOTS,
)
def dkd(seed: int) -> Arms:
    return accuracies(seed, "dkd", "kd", "supervised")


@check(
    "ofa_kd",
    baseline="kd",
    claim="better than kd where the teacher is of another architecture",
    settings={**SHOTS, "teacher": "mlp, 6 epochs of all 6,000", "eps": 1.5},
)
def ofa_kd(seed: int) -> Arms:
    return accuracies(seed, "ofa_kd", "kd", "supervised", features=True, teacher="mlp")


@check("dist", baseline="kd", claim="better than kd with a teacher much stronger than its student", settings=SHOTS)
def dist(seed: int) -> Arms:
    return accuracies(seed, "dist", "kd", "supervised")


@check("pld", baseline="kd", claim="better than kd, without a weight to choose", settings=SHOTS)
def pld(seed: int) -> Arms:
    return accuracies(seed, "pld", "kd", "supervised")


@check("sinkd", baseline="kd", claim="better than kd", settings={**SHOTS, "kd": 0.9, "ot": 0.8})
def sinkd(seed: int) -> Arms:
    return accuracies(seed, "sinkd", "kd", "supervised", "CE() + 0.9 * KL(2.0)")


# --- text ---------------------------------------------------------------------------------------------------------


def characters(seed: int, method: str, baseline: str, *others: str, figure: str = "accuracy") -> Arms:
    return {
        "method": text.figure(figure, method, seed),
        "baseline": text.figure(figure, baseline, seed),
        **{other: text.figure(figure, other, seed) for other in others},
    }


@check(
    "reverse_kl",
    baseline="KL()",
    claim="does not overrate what the teacher finds improbable: less mass on classes below 1 % of the teacher's",
    figure="student's mass where the teacher's probability is below 0.01, in %",
    better=-1,
    settings=TEXT,
)
def reverse_kl(seed: int) -> Arms:
    teacher = text.teacher()
    improbable = teacher.predict(teacher.students[0], text.held_out()).softmax(1) < 0.01

    def mass(method: str) -> float:
        return 100 * float((text.logits(method, seed).softmax(1) * improbable).sum(1).mean())

    return {"method": mass("reverse_kl"), "baseline": mass("KL()"), "supervised": mass("supervised")}


@check("jsd", baseline="KL()", claim="a student of the JSD, here of beta 0.5, predicts better", settings=TEXT)
def jsd(seed: int) -> Arms:
    return characters(seed, "jsd", "KL()", "supervised", "jsd(beta=0.1)", "jsd(beta=0.9)")


@check("total_variation", baseline="KL()", claim="a symmetric distance makes better students than KL", settings=TEXT)
def total_variation(seed: int) -> Arms:
    return characters(seed, "total_variation", "KL()", "supervised", "reverse_kl")


@check(
    "taid",
    baseline="KL()",
    claim="a target between student and teacher makes better students than the teacher's, and than reverse KL",
    figure="nll in nats",
    better=-1,
    settings=TEXT,
)
def taid(seed: int) -> Arms:
    return characters(seed, "taid", "KL()", "supervised", "reverse_kl", figure="nll")


@check(
    "first",
    baseline="supervised",
    claim="more accurate and better calibrated than further training on the labels",
    figure="accuracy - ECE in points",
    settings={**TEXT, "tau": 0.2},
)
def first(seed: int) -> Arms:
    arms = {"method": "first", "baseline": "supervised", "KL()": "KL()", "method + CE()": "CE() + first(tau=0.2)"}
    scored = {
        arm: {figure: text.figure(figure, method, seed) for figure in ("accuracy", "ece")}
        for arm, method in arms.items()
    }
    return {
        **{arm: each["accuracy"] - each["ece"] for arm, each in scored.items()},
        **{f"{arm}: {figure}": number for arm, each in scored.items() for figure, number in each.items()},
    }
