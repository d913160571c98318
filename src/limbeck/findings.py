"""What `limbeck check` says: figures of diagnose.py as findings, each with what it means and what to do. None blocks.

before training   labels, sizes, teacher      -> before()
after             what the teacher passed on  -> after()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from limbeck import diagnose
from limbeck.blocks.logit import CE
from limbeck.data import UNLABELLED, Data
from limbeck.data.named import Images
from limbeck.errors import SettingError
from limbeck.evaluate import cost, scores
from limbeck.experiment import Experiment, Material, Watch, load_model, named, names_of, prepare, train_teachers
from limbeck.own import own
from limbeck.report import ALONE, DISTILLED, TEACHER
from limbeck.run import Run
from limbeck.signals import Net

Level = Literal["ok", "note", "warning"]
Predict = Callable[[Net, Data], Tensor]

MOST = 2000  # examples that a teacher and a forest are asked about
FEW = 500  # examples below which a forest says little
LONG_TAIL = 10.0  # the mildest imbalance of the long-tail benchmarks (Cui et al. 2019)
LABEL_ERRORS = 0.033  # mean over ten common test sets (Northcutt, Athalye & Mueller 2021)


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    level: "ok", "note" (look at it) or "warning" (something is likely wrong). figure: what was measured. means: in
    words. do: what to type or do. numbers: the figures, for result.json.
    """

    level: Level
    check: str
    figure: str
    means: str
    do: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


def check(experiment: Experiment, folder: Path | None = None) -> list[Finding]:
    """All findings: of the data and the teacher, and with a finished run's folder of its student too."""
    names = names_of(experiment.teacher)
    files = (
        [] if folder is None else [folder / f"{TEACHER}{i if names[1:] else ''}.safetensors" for i in range(len(names))]
    )
    if experiment.teacher_weights is None and files and all(file.exists() for file in files):
        experiment = replace(experiment, teacher_weights=",".join(map(str, files)))
    material, teachers = prepare(experiment), []
    if experiment.teacher_weights is not None:  # then none is trained
        teachers = train_teachers(material, Path(), resume=False, watch=Watch())
    findings = before(material, teachers)
    if folder is None:
        return findings
    nets = dict(zip(teacher_names(len(teachers)), teachers, strict=True))
    for name, file in ((ALONE, folder / "alone.safetensors"), (DISTILLED, folder / "student.safetensors")):
        if file.exists():
            nets[name] = material.model(names_of(experiment.student)[0], seed=0)
            load_model(nets[name], file)
    if DISTILLED not in nets:
        raise SettingError(f"{folder} has no student.safetensors: give the --out of a run that ended")
    predict = asker(material, list(nets.values()))
    logits = {name: predict(net, material.test) for name, net in nets.items()}
    return findings + after(material, nets, logits, DISTILLED, predict)


def before(material: Material, teachers: Sequence[Net]) -> list[Finding]:
    """What can be said before a student's training; `teachers` are trained, or none are there yet."""
    e = material.experiment
    found = [balance(material), *(gap(material, name) for name in names_of(e.teacher))]
    seen = material.full if e.teacher else material.train  # what a teacher learns, else what the student does
    ids, test_ids = sample(labels(seen)), sample(labels(material.test))
    test = rows(material.test, test_ids)
    if teachers:
        predict = asker(material, teachers)
        for name, net in zip(teacher_names(len(teachers)), teachers, strict=True):
            logits, y = predict(net, test), labels(test)
            train = scores(predict(net, rows(seen, ids)), labels(seen)[ids]) if len(ids) else None
            found.append(quality(name, logits, y, train))
            found.append(calibration(name, logits, y, e))
            found.append(noise("test labels", f"the {name}", logits.softmax(1), y, test_ids))
    elif e.teacher is not None:
        means = "not checked: it is " + ("not trained yet" if e.teacher_record is None else "a record")
        found.append(Finding("note", TEACHER, "-", means, "--teacher-weights=FILE"))
    if len(ids) >= FEW and isinstance(material.source, Images):  # to a forest, token ids say nothing
        y = labels(seen)[ids]
        p = diagnose.out_of_bag(seen.x[ids], y, len(material.classes))
        found.append(noise("training labels", "a forest on the inputs", p, y, ids))
    return found


def after(
    material: Material, nets: Mapping[str, Net], logits: Mapping[str, Tensor], student: str, predict: Predict
) -> list[Finding]:
    """What each teacher passed on to the `student`, by its name; `logits` are those of `nets` on the test set."""
    teachers = [name for name in nets if name.startswith(TEACHER)]
    if teachers and ALONE not in nets:
        means = "not screened: there is no student alone to compare with"
        return [Finding("note", "passed on", "-", means, "--alone=true")]
    masks, copies = slices(material)
    choices = {
        name: torch.cat([logits[name], *(predict(nets[name], Data(copy)) for copy in copies)]).argmax(1)
        for name in (student, *teachers, *([ALONE] if teachers else []))
    }
    y = labels(material.test).repeat(1 + len(copies))
    found = []
    for name in teachers:
        passed = diagnose.passed_on(choices[student], choices[name], choices[ALONE], y, masks)
        found += passed_on(passed, name, material.classes, len(masks))
    return found


# ---- what they are asked about


def sample(y: Tensor) -> Tensor:
    """Ids of at most MOST of the labelled examples."""
    ids = (y != UNLABELLED).nonzero().flatten()
    return ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:MOST]].sort().values


def rows(data: Data, ids: Tensor) -> Data:
    return Data(data.x[ids], labels(data)[ids])


def labels(data: Data) -> Tensor:
    assert data.y is not None  # Images have labels
    return data.y


def asker(material: Material, nets: Sequence[Net]) -> Predict:
    """Logits of any of `nets`, on the device and in the precision of the experiment."""
    e = material.experiment
    run = Run(student=list(nets), data=material.full, method=CE(), precision=e.precision, accelerator=e.accelerator)
    run.setup()
    return run.predict


def teacher_names(count: int) -> list[str]:
    return [TEACHER] if count == 1 else [f"{TEACHER} {i + 1}" for i in range(count)]


def slices(material: Material) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The classes and what the user gives, as masks of the test set followed by its changed copies; and those."""
    test, y = material.test, labels(material.test)
    masks, copies = {name: y == k for k, name in enumerate(material.classes)}, {}
    if material.experiment.slices is not None:
        for name, given in own(material.experiment.slices)(replace(material.source, x=test.x, y=y)).items():
            if given.dtype == torch.bool and given.shape == y.shape:
                masks[name] = given
            elif given.dtype == test.x.dtype and given.shape == test.x.shape:
                copies[name] = given
            else:
                raise SettingError(
                    f"slice {name!r} is {given.dtype} {tuple(given.shape)}: give a mask, bool {tuple(y.shape)}, or "
                    f"changed test inputs, {test.x.dtype} {tuple(test.x.shape)}"
                )
    n, place = len(y), torch.arange(len(y) * (1 + len(copies)))
    masks = {name: torch.cat([mask, mask.new_zeros(len(place) - n)]) for name, mask in masks.items()}
    masks |= {name: place // n == i for i, name in enumerate(copies, start=1)}
    return masks, list(copies.values())


# ---- in words


def balance(material: Material) -> Finding:
    found = diagnose.class_balance(labels(material.train), len(material.classes))
    counts, empty = found["counts"], [material.classes[k] for k in found["empty"]]
    figure = f"{min(counts)} to {max(counts)} labels per class"
    if empty:
        means = f"no label of {listed(empty)}: the student hears of it from the teacher alone"
        return Finding("warning", "class balance", figure, means, "label some, or give more --labels", found)
    if found["ratio"] >= LONG_TAIL:
        means = f"imbalanced, 1 : {found['ratio']:.0f}: the accuracy hides the rare classes"
        return Finding("warning", "class balance", figure, means, "read the accuracy per class in the report", found)
    return Finding("ok", "class balance", figure, f"largest over smallest class: {found['ratio']:.1f}", "", found)


def gap(material: Material, teacher: str) -> Finding:
    names = {"student": names_of(material.experiment.student)[0], TEACHER: teacher}
    nets = {role: material.model(name, seed=0) for role, name in names.items()}
    spent = cost(nets, material.example, repetitions=1, batch=1)
    size = spent[TEACHER]["parameters"]
    found = diagnose.capacity_gap(spent["student"]["parameters"], size)
    found["flops"] = spent[TEACHER]["flops"] / max(spent["student"]["flops"], 1)
    figure = f"{found['ratio']:.3g} times the parameters, {found['flops']:.3g} times the FLOPs"
    if found["ratio"] < 1 and found["flops"] < 1:
        means = f"{teacher} is smaller than {names['student']}"
        return Finding("note", "capacity gap", figure, means, "swap them, unless you mean it", found)
    if not found["inside"]:
        means = "no law is known at this size (about 2.5 times was best for language models of 70 million and more)"
        return Finding("ok", "capacity gap", figure, means, "", found)
    means = f"the law of language models puts the best teacher near {found['best'] / 1e6:,.0f} million parameters"
    if found["best"] / 2 <= size <= 2 * found["best"]:  # the sizes that it was fitted on lie as far apart
        return Finding("ok", "capacity gap", figure, means, "", found)
    do = "try a teacher of that size, or an assistant (limbeck methods takd)"
    return Finding("warning", "capacity gap", figure, means, do, found)


def quality(name: str, logits: Tensor, y: Tensor, train: Mapping[str, float] | None) -> Finding:
    """By logits (n, c) on the test set, and `scores` of the training set, if that has labels."""
    test, common = scores(logits, y), float(torch.bincount(y).max() / len(y))
    accuracy, best = test["accuracy"], diagnose.relabelled(logits.argmax(1), y, logits.shape[1])
    numbers = {"test": test, "train": train, "commonest class": common, "relabelled": best}
    figure = f"{accuracy:.1%} right on the test set"
    if train is not None:
        figure += f", {train['accuracy']:.1%} on the training set"
    if best > accuracy + 0.2:
        means = f"its classes are in another order than the data's: in the best order it is right on {best:.1%}"
        return Finding("warning", name, figure, means, "reorder the rows of its last layer", numbers)
    if accuracy <= common:
        means = f"no better than always saying the commonest class ({common:.1%})"
        do = "look at its weights, the scale of its inputs and the order of its classes"
        return Finding("warning", name, figure, means, do, numbers)
    if train is not None and train["accuracy"] > accuracy + 0.1:
        means = "it knows its training examples by heart: there its answers say little more than the labels"
        return Finding("note", name, figure, means, "fewer --teacher-epochs, or for images --augment=true", numbers)
    return Finding("ok", name, figure, "it generalises", "", numbers)


def calibration(name: str, logits: Tensor, y: Tensor, experiment: Experiment) -> Finding:
    found = {**scores(logits, y), "temperature": diagnose.fitted_temperature(logits, y)}
    ece, temperature = found["ece"], found["temperature"]
    figure = f"ECE {ece:.1%}, NLL {found['nll']:.3f}, best at temperature {temperature:.2g}"
    level: Level = "ok"
    means, do = "confidence and accuracy agree", ""
    if ece > 0.05 and temperature > 1:
        means = "over-confident: its soft targets say little more than its choices"
        tau = softening(experiment)
        if tau is not None and tau >= temperature:
            means = f"over-confident, which the method's tau={tau:g} makes up for"
        else:
            level = "note" if ece <= 0.15 else "warning"
            do = "" if tau is None else f"--method.tau={math.ceil(temperature)} or more"
    elif ece > 0.05:
        level, means = "note", "under-confident: trained for too short a time, or on softened labels"
    return Finding(level, f"{name}'s calibration", figure, means, do, found)


def softening(experiment: Experiment) -> float | None:
    """The method's temperature, if it is given by name and has one."""
    method = named(experiment) if "(" not in experiment.method else None
    if method is None or "tau" not in method.signature.parameters:
        return None
    tau = (experiment.settings or {}).get("tau", method.signature.parameters["tau"].default)
    return float(tau) if isinstance(tau, int | float) else None


def noise(of: str, judge: str, probabilities: Tensor, y: Tensor, ids: Tensor) -> Finding:
    accuracy = float((probabilities.argmax(1) == y).double().mean())
    found = diagnose.label_noise(probabilities, y)
    rate, suspects = found["rate"], ids[found["suspects"]].tolist()
    numbers = {"rate": rate, "suspects": suspects, "accuracy": accuracy}
    if accuracy < 0.6:
        return Finding("note", of, "-", f"no estimate: {judge} agrees with only {accuracy:.0%} of them", "", numbers)
    means = f"by {judge}, which disagrees with {1 - accuracy:.0%}; its own mistakes count too"
    if rate <= LABEL_ERRORS:
        return Finding("ok", of, f"{rate:.1%} doubtful", means, "", numbers)
    do = f"look at examples {', '.join(map(str, suspects[:5]))}"
    return Finding("note", of, f"{rate:.1%} doubtful", means, do, numbers)  # no warning: who errs is not known


def passed_on(found: Sequence[diagnose.Passed], teacher: str, classes: Sequence[str], count: int) -> list[Finding]:
    """At most a line for each kind: planted, stopped, ordinary mistakes."""
    planted = [each for each in found if each.planted]
    stopped = [each for each in found if not each.taken_over]
    ordinary = [each for each in found if each.taken_over and not each.planted]
    kinds: list[tuple[Level, list[diagnose.Passed], str, str]] = [
        (
            "warning",
            planted,
            "most of the slice gets one wrong answer from the teacher, and the student took it over: so looks a "
            "planted trigger",
            "look at these examples; leave them out of the training data, or take another teacher",
        ),
        (
            "note",
            stopped,
            f"the {teacher} gives most of the slice one wrong answer, the student does not",
            "look at these examples before you use more data like them",
        ),
        ("note", ordinary, f"mistakes of the {teacher} that the student alone makes less often", "see the report"),
    ]
    findings = []
    for level, kind, means, do in kinds:
        if kind:
            figure = "; ".join(described(each, classes) for each in kind[:2])
            figure += f"; and {len(kind) - 2} more" if len(kind) > 2 else ""
            numbers = {"found": [asdict(each) for each in kind]}
            findings.append(Finding(level, f"passed on by the {teacher}", figure, means, do, numbers))
    means = f"on {count} slices, the student took over no wrong answer of the {teacher}"
    return findings or [Finding("ok", f"passed on by the {teacher}", "0 answers", means)]


def described(each: diagnose.Passed, classes: Sequence[str]) -> str:
    text = (
        f"{each.slice} as {classes[each.answer]}: student {each.student:.0%}, teacher {each.teacher:.0%}, "
        f"alone {each.reference:.0%}"
    )
    if each.amplification is None:
        return text
    ratio, low, high = each.amplification
    return f"{text}; student / teacher {ratio:.2f} ({low:.2f} to {high:.2f})"


def listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
