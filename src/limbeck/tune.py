"""Which method, which temperature, which weight, which layers? Optuna tries, on examples held out of training.

    tuning = Tuning(Experiment(data="digits", teacher="resnet8x2", student="cnn"), methods=("kd", "dist"), trials=30)
    found = tune(tuning, Path("runs/tune"))     # found["method"]: kd(tau=2.31, alpha=0.87)

First come each method's own defaults, those of the best recorded effect first; a hopeless trial is pruned. The study is
a file: stopped or killed, `tune` goes on with it. The test set is never asked: compare the result with the defaults
by `limbeck compare`, since the best of many trials looks better than it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from limbeck import registry
from limbeck.errors import DataError, SettingError
from limbeck.experiment import (
    Experiment,
    Material,
    Watch,
    names_of,
    needs,
    prepare,
    student_run,
    train_teachers,
    write_whole,
)
from limbeck.registry import Method
from limbeck.run import Row, Run

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Space = Mapping[str, "BaseDistribution"]


@dataclass(frozen=True)
class Tuning:
    """base: data, models, budget; its method is not used, and a fifth of the examples is held out if it says nothing.
    methods: names. trials: how many settings are tried in all.
    """

    base: Experiment
    methods: tuple[str, ...] = ("kd",)
    trials: int = 30

    def __post_init__(self) -> None:
        if self.trials < 1 or not self.methods:
            raise SettingError(f"at least one trial of one method; got trials={self.trials}, methods={self.methods}")
        for name in self.methods:
            registry.find(name)
        if self.base.validation == 0:
            object.__setattr__(self, "base", replace(self.base, validation=0.2))


def tune(tuning: Tuning, folder: Path, watch: Watch | None = None) -> dict[str, Any]:
    """Run the trials that are left; what best.json then holds: the method as code, its validation accuracy, and so on.

    Raises SettingError if Optuna is not installed, or the folder holds a study of something else.
    """
    optuna = imported()
    watch = watch or Watch()
    refuse_mixture(tuning, folder)
    material = prepare(tuning.base)
    assert material.validation is not None
    untrained = [material.model(name, seed=0) for name in names_of(tuning.base.teacher)]
    spaces = {name: space(registry.find(name), material, untrained) for name in tuning.methods}
    for name in tuning.methods:
        e = replace(tuning.base, method=name, settings=dict(registry.find(name).example))
        if needs(e) & {"teacher", "teachers"} and not untrained:
            raise SettingError(f"{name} learns from a teacher: give --teacher resnet20x4, say")
        student_run(material, e.objective(), untrained, None, None).setup()  # mistakes show now
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "tune.yaml", described(tuning))
    teachers = train_teachers(material, folder, resume=True, watch=watch)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",  # its locks fall with a killed process; a journal's stay
        study_name="limbeck",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, tuning.base.epochs // 4)),
    )
    finished = recover(study, optuna)
    study.sampler = optuna.samplers.TPESampler(seed=tuning.base.seed + finished)
    if not study.trials:
        for name in by_effect(tuning.methods):
            study.enqueue_trial({"method": name, **defaults(name, spaces[name])})

    def trial(of: Any) -> float:
        name = of.suggest_categorical("method", list(tuning.methods))
        settings = {key: suggest(of, f"{name}.{key}", each) for key, each in spaces[name].items()}
        e = replace(tuning.base, method=name, settings={**registry.find(name).example, **settings})
        of.set_user_attr("method", f"{name}({', '.join(f'{k}={v!r}' for k, v in (e.settings or {}).items())})")
        run = student_run(
            material, e.objective(), teachers, None, Reporter(of, watch.of(f"trial {of.number}", e.epochs))
        )
        return float(replace(run, test=material.validation).fit()[-1]["accuracy"])

    if tuning.trials > finished:
        study.optimize(trial, n_trials=tuning.trials - finished, catch=(DataError, SettingError))
    found = summary(tuning, study, folder)
    write_whole(folder / "best.json", json.dumps(found, indent=1))
    return found


def imported() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SettingError("tuning needs Optuna: pip install 'limbeck[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def described(tuning: Tuning) -> str:
    return yaml.safe_dump({**asdict(tuning), "methods": list(tuning.methods)}, sort_keys=False)


def refuse_mixture(tuning: Tuning, folder: Path) -> None:
    """A folder holds one study; it may be given more trials."""
    path = folder / "tune.yaml"
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise SettingError(f"{folder} holds something else: take another --out")
        return
    before, now = (yaml.safe_load(text) for text in (path.read_text(), described(tuning)))
    changed = [name for name in now["base"] if now["base"][name] != before["base"].get(name)]
    changed += ["methods"] * (now["methods"] != before["methods"])
    if changed:
        raise SettingError(f"{folder} holds a study with other {', '.join(changed)}: take another --out")


def recover(study: optuna.Study, optuna: Any) -> int:
    """What a killed process was at is tried again. How many trials are done."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)))


class Reporter:
    """Tells Optuna each epoch's validation accuracy, and ends what Optuna finds hopeless."""

    def __init__(self, trial: optuna.Trial, bar: Any) -> None:
        self.trial, self.bar = trial, bar

    def step(self, run: Run) -> None:
        if self.bar is not None:
            self.bar.step(run)

    def epoch(self, run: Run, row: Row) -> None:
        if self.bar is not None:
            self.bar.epoch(run, row)
        self.trial.report(row["accuracy"], row["epoch"])
        if self.trial.should_prune() and row["epoch"] < run.epochs:
            import optuna

            raise optuna.TrialPruned


# ---- what is tried --------------------------------------------------------------------------------------------------


def space(method: Method, material: Material, teachers: Sequence[nn.Module]) -> Space:
    """A range for each setting: around its default, or its example where there is none.

    Temperatures: 1 to 16 or twice the default. Other numbers: a quarter to four times the default; below 1, at most 1.
    Layers: the common blocks of student and teacher, one, or the last few. What is none of these stays as it is.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    students = [material.model(name, seed=0) for name in names_of(material.experiment.student)]
    layers = common_layers([*students, *teachers])
    found: dict[str, BaseDistribution] = {}
    for name, usual in usual_settings(method).items():
        match usual:
            case bool():
                found[name] = CategoricalDistribution([False, True])
            case int() if usual > 1:
                found[name] = IntDistribution(max(1, usual // 4), 4 * usual, log=True)
            case int() | float() if name == "tau" and usual >= 1:
                found[name] = FloatDistribution(1.0, max(16.0, 2.0 * usual), log=True)
            case float() if usual > 0:
                found[name] = FloatDistribution(usual / 4, min(4 * usual, 1.0) if usual < 1 else 4 * usual, log=True)
            case str() if name.startswith("layer") and layers:
                found[name] = CategoricalDistribution(layers)
            case tuple() if name.startswith("layer") and layers:
                found[name] = CategoricalDistribution([",".join(layers[i:]) for i in range(len(layers))])
    return found


def usual_settings(method: Method) -> dict[str, Any]:
    known = method.signature.parameters.values()
    return {each.name: method.example.get(each.name, each.default) for each in known}


def common_layers(nets: Sequence[Any]) -> list[str]:
    """Names of the direct children with parameters that all have, the last, which is the head, left out."""
    modules = [getattr(net, "module", net) for net in nets]
    names = [
        [name for name, child in each.named_children() if any(True for _ in child.parameters())] for each in modules
    ]
    return [name for name in names[0][:-1] if all(name in other for other in names)]


def suggest(trial: optuna.Trial, name: str, of: BaseDistribution) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(of, FloatDistribution):
        return float(f"{trial.suggest_float(name, of.low, of.high, log=of.log):.3g}")  # as one would type it
    if isinstance(of, IntDistribution):
        return trial.suggest_int(name, of.low, of.high, log=of.log)
    chosen = trial.suggest_categorical(name, of.choices)  # type: ignore[attr-defined]
    return tuple(chosen.split(",")) if isinstance(chosen, str) and name.endswith("layers") else chosen


def defaults(name: str, space: Space) -> dict[str, Any]:
    """The method's own settings, as the study names them; layers that the models don't have are left to the sampler."""
    usual = usual_settings(registry.find(name))
    told = {key: ",".join(usual[key]) if isinstance(usual[key], tuple) else usual[key] for key in space}
    return {f"{name}.{key}": each for key, each in told.items() if each in getattr(space[key], "choices", (each,))}


def by_effect(methods: Sequence[str]) -> list[str]:
    """Those with the best recorded gain (bench/results/effects) first, as sure as it is: by the interval's low end."""

    def gain(name: str) -> float:
        effect = registry.find(name).facts.get("effect")
        return effect["difference"][1] if effect and effect["figure"] == "accuracy" else float("-inf")

    return sorted(methods, key=gain, reverse=True)


# ---- what is said ---------------------------------------------------------------------------------------------------


def summary(tuning: Tuning, study: optuna.Study, folder: Path) -> dict[str, Any]:
    trials: list[dict[str, Any]] = [
        {
            "number": each.number,
            "method": each.user_attrs.get("method"),
            "state": each.state.name.lower(),
            "accuracy": each.value if each.value is not None else max(each.intermediate_values.values(), default=None),
            "epochs": len(each.intermediate_values),
        }
        for each in study.trials
        if each.state.is_finished()
    ]
    complete = [each for each in trials if each["state"] == "complete"]
    if not complete:
        raise SettingError(f"no trial of {len(trials)} came to its end: {folder / 'study.db'} tells why")
    best = max(complete, key=lambda each: each["accuracy"])
    first = by_effect(tuning.methods)[0]
    return {
        "method": best["method"],
        "validation_accuracy": best["accuracy"],
        "validation_examples": int(prepare(tuning.base).validation.num_examples),  # type: ignore[union-attr]
        "trials": trials,
        "next": f"limbeck compare --methods '{best['method']},{first}' --data {tuning.base.data} --seeds 5",
    }


def recommend(material: Material, teachers: Sequence[Any]) -> list[str]:
    """What to try first, before any trial: from the data's size, the classes and the two models. Sentences, each with
    its ground: measured by us (bench/results/effects), or a rule of thumb and whose."""
    e = material.experiment
    y = material.train.y
    classes, n = len(material.classes), material.train.num_examples
    labelled = 0 if y is None else int((y >= 0).sum())
    student = count(material.model(names_of(e.student)[0], seed=0))
    said = [f"{n:,} examples, {labelled:,} of them labelled, {classes} classes; a student of {student:,} parameters."]
    if not teachers:
        return [*said, "No teacher: dml lets two students teach each other, ps_kd the student itself."]
    ratio = count(teachers[0]) / student
    if labelled < n / 2:
        said.append(
            f"Only {labelled / n:.0%} are labelled: let the teacher speak on all of them, with much weight "
            f"(kd, alpha of 0.9). Measured: see the gain in the README, five labels per class."
        )
    if classes <= 4:
        said.append(
            "Few classes: the teacher's probabilities hold little beside the label; try what reads features (crd, "
            "rkd, fitnet). Rule of thumb (Mueller et al. 2020, subclass distillation)."
        )
    if ratio > 20:
        said.append(
            f"The teacher is {ratio:.0f} times the student: a large gap. Try dist, or takd by way of a model between "
            f"the two. Rule of thumb (Mirzadeh et al. 2020; Huang et al. 2022)."
        )
    met = {"teacher", "labels"} | ({"unlabelled"} if labelled < n else set())
    best = by_effect([m.name for m in registry.every() if m.needs <= met and "teacher" in m.needs])
    shown = [m for m in map(registry.find, best) if m.facts.get("effect", {}).get("reproduced") == "yes"][:3]
    for m in shown:
        effect = m.facts["effect"]
        mean, low, high = effect["difference"]
        if effect["figure"] == "accuracy":
            gain = f"{mean:+.1f} points ({low:+.1f} to {high:+.1f}) over {effect['baseline']}"
            said.append(f"{m.name}: {gain}, measured on digits or Fashion-MNIST.")
    return said


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
