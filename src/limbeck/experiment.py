"""A whole distillation as a value: what `limbeck distill` runs, run.yaml holds and a report shows.

run.yaml  ->  teacher (trained, or its weights loaded)  ->  student alone  ->  student distilled  ->  report.html
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from limbeck import registry
from limbeck.blocks.logit import CE
from limbeck.data import UNLABELLED, Data, Texts, as_data, to_float
from limbeck.data.named import Images, few_labels, load
from limbeck.data.text import Tokens
from limbeck.data.views import strong, weak
from limbeck.errors import CheckpointError, SettingError, nearest
from limbeck.judging import judge
from limbeck.models import build
from limbeck.objective import Objective
from limbeck.records import Cached, Record
from limbeck.records.capture import need_ray, wanted
from limbeck.report import ALONE, DISTILLED, TEACHER
from limbeck.run import Run, Watcher
from limbeck.signals import Net, Normalize
from limbeck.teachers import Teacher

if TYPE_CHECKING:
    from limbeck.findings import Finding


@dataclass(frozen=True)
class Experiment:
    """All settings of a distillation; run.yaml is this, field by field.

    data: "digits", "fashion-mnist", "glosses" or "module:function" giving (train, test). examples: training examples to
        use, None: all. labels: labels per class that the student may see, None: all; the rest is unlabelled.
        unlabelled: unlabelled rows per labelled row of a batch, None: as they come. augment: crop (and flip) view x.
    validation: share of the training examples that is held out, of each class, with at most `labels` labels.
    teacher, student: names or "module:function"; several, with commas, for a committee or for peers.
    teacher_weights: safetensors files instead of training the teachers here, which is done on all labels.
        teacher_record: records of them that are read instead of running them (see `limbeck record`).
    method: a name with `settings`, or code such as "CE() + 0.9 * KL(4.0)". optimizer: code, e.g. "AdamW(0.001)".
    alone: also train the student alone, on the labels, with the same batches and budget.
    slices: "module:function" that names parts of the test set on which to look for what the teacher passed on.
    """

    data: str = "digits"
    teacher: str | None = "resnet8x4"
    student: str = "resnet8"
    method: str = "kd"
    settings: Mapping[str, Any] | None = None
    examples: int | None = None
    labels: int | None = None
    unlabelled: float | None = None
    augment: bool = False
    validation: float = 0.0
    epochs: int = 30
    teacher_epochs: int = 30
    batch_size: int = 128
    micro_batch: int | None = None
    optimizer: str = "SGD(lr=Cosine(start=0.05))"
    clip: float | None = None
    seed: int = 0
    teacher_weights: str | None = None
    teacher_record: str | None = None
    alone: bool = True
    slices: str | None = None
    precision: str = "32-true"
    accelerator: str = "auto"
    compile: bool = False

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """From a run.yaml; an unknown or missing-typed field is named."""
        if not path.exists():
            raise SettingError(f"there is no {path}: give the --out of a run, or a run.yaml as --config")
        loaded = yaml.safe_load(path.read_text())
        if not isinstance(loaded, dict):
            raise SettingError(f"{path} holds no settings (a mapping of names to values)")
        loaded.pop("limbeck", None)
        return cls().with_settings(**loaded)

    def with_settings(self, **settings: Any) -> Experiment:
        known = [each.name for each in fields(self)]
        for name in settings:
            if name not in known:
                raise SettingError(f"there is no setting {name!r}; {nearest(name, known)}")
        return replace(self, **settings)

    def write(self, path: Path) -> None:
        from limbeck import __version__

        write_whole(path, yaml.safe_dump({"limbeck": __version__, **asdict(self)}, sort_keys=False))

    def objective(self) -> Objective:
        return registry.make(self.method, **(self.settings or {}))


@dataclass
class Material:
    """What an experiment's settings stand for: data and freshly built models."""

    experiment: Experiment
    train: Data
    test: Data
    full: Data  # the training examples with all their labels, for the teacher
    validation: Data | None
    source: Images | Texts  # the training examples as they were loaded

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def example(self) -> Tensor:
        """As a model takes it, (1, ...)."""
        x: Tensor = to_float(self.source.x[:1])
        return x

    def model(self, name: str, seed: int) -> Net:
        torch.manual_seed(seed)
        module = build(name, **self.source.built_with)
        if isinstance(self.source, Texts):
            return Net(module)
        pixels = self.full.x[:5000].float().div(255)
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1e-3)
        return Net(module, inputs=Normalize(mean.tolist(), std.tolist()))


def prepare(experiment: Experiment) -> Material:
    """Load the data and cut it as the settings say."""
    train, test = load(experiment.data)
    if not isinstance(train, Images | Texts):
        mend = "language models are distilled in Python: Run(data=tokens, ...)" if isinstance(train, Tokens) else ""
        mend = mend or "limbeck.data's Images or Texts are needed"
        raise SettingError(f"{experiment.data} gives {type(train).__name__}; {mend}")
    if isinstance(train, Texts) and (experiment.augment or "strong" in needs(experiment)):
        raise SettingError(f"{experiment.data} is texts, for which there is no augmented view")
    x, y = train.x, train.y
    if experiment.examples is not None and experiment.examples < len(x):
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: experiment.examples]
        x, y = x[chosen], y[chosen]
    held = held_out(y, experiment.validation, experiment.labels)
    validation = Data(x[held], y[held], classes=train.classes) if len(held) else None
    x, y = without(x, held), without(y, held)
    flip = experiment.data == "fashion-mnist"  # a mirrored digit is another digit
    pad = max(1, x.shape[-1] // 10)
    views: dict[str, Any] = {} if isinstance(train, Texts) else {"strong": strong(flip=flip, pad=pad)}
    if experiment.augment or "strong" in needs(experiment):
        views["x"] = weak(flip=flip, pad=pad)
    kept = y if experiment.labels is None else few_labels(y, experiment.labels, seed=experiment.seed)
    full = Data(x, y, views=views, classes=train.classes)
    seen = Data(x, kept, views=views, classes=train.classes)
    return Material(experiment, seen, as_data(test), full, validation, train)


def held_out(y: Tensor, share: float, labels: int | None) -> Tensor:
    """Ids of the validation examples: the same for every seed; no more labels of a class than the student sees."""
    if not 0 <= share < 1:
        raise SettingError(f"validation is a share in [0, 1); got {share}")
    if share == 0:
        return torch.empty(0, dtype=torch.int64)
    from sklearn.model_selection import train_test_split

    _, held = train_test_split(torch.arange(len(y)), test_size=share, stratify=y, random_state=0)
    ids: Tensor = held
    return ids if labels is None else ids[few_labels(y[ids], labels, seed=0) != UNLABELLED]


def without(rows: Tensor, ids: Tensor) -> Tensor:
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[ids] = False
    return rows[kept]


def needs(experiment: Experiment) -> frozenset[str]:
    """What the method needs; of code that is not one call of a method, nothing is known beforehand."""
    method = named(experiment)
    return method.needs if method else frozenset()


def named(experiment: Experiment) -> registry.Method | None:
    """The method, if it is given as "kd" or "kd(tau=2.0)"."""
    name = experiment.method
    if "(" in name:
        tree = ast.parse(name.strip(), mode="eval").body
        name = tree.func.id if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) else ""
        if name not in {each.name for each in registry.every()}:
            return None
    return registry.find(name)


def distil(experiment: Experiment, folder: Path, *, resume: bool = False, watch: Watch | None = None) -> dict[str, Any]:
    """Run all of it in `folder`; the result that result.json holds and report.html shows.

    A killed or interrupted experiment goes on with `resume=True`: finished parts are loaded, the broken one continues
    from its last checkpoint, to the same weights to the bit.
    """
    from limbeck.findings import Finding, before

    method, wants = experiment.objective(), needs(experiment)
    refuse_mixture(experiment, folder, resume)
    material = prepare(experiment)
    watch = watch or Watch()
    records = [Cached(name) for name in names_of(experiment.teacher_record)]
    untrained: Sequence[Teacher] = records or [material.model(name, seed=0) for name in names_of(experiment.teacher)]
    if wants & {"teacher", "teachers"} and not untrained:
        raise SettingError(f"method {experiment.method} learns from a teacher: give --teacher resnet20x4, say")
    student_run(material, method, untrained, None, None).setup()  # mistakes show now, not when the teacher is trained
    folder.mkdir(parents=True, exist_ok=True)  # a mistake leaves nothing behind
    experiment.write(folder / "run.yaml")
    teachers = [] if records else train_teachers(material, folder, resume, watch)
    findings = before(material, teachers)
    watch.found(findings)
    runs: dict[str, Run] = {}
    if experiment.alone and experiment.method != "supervised" and material.train.y is not None:
        runs[ALONE] = student_run(material, CE(), [], folder / "alone", watch.of(ALONE, experiment.epochs))
    name = "student" if experiment.method == "supervised" else DISTILLED
    runs[name] = student_run(material, method, records or teachers, folder, watch.of(name, experiment.epochs))
    for run in runs.values():
        run.fit(resume=resume)
    save_model(runs[name].students[0], folder / "student.safetensors")
    if ALONE in runs:
        save_model(runs[ALONE].students[0], folder / "alone.safetensors")
    result = judge(material, teachers, runs)
    watch.found([Finding(**each) for each in result["check"]])
    result["check"] = [asdict(each) for each in findings] + result["check"]
    result["sha256"] = {file.name: checksum(file) for file in sorted(folder.glob("*.safetensors"))}
    write_whole(folder / "result.json", json.dumps(result, indent=1))
    from limbeck import report

    report.write(folder / "report.html", result)
    return result


def record_teacher(
    experiment: Experiment,
    folder: Path,
    *,
    signals: Mapping[str, str],
    views: Mapping[str, int],
    watch: Any,
    **settings: Any,
) -> Record:
    """Write what the teacher says of the training examples; a teacher without weights is trained in `folder`-teacher.

    watch: as for `distil`, and with `say(line)` and `rows(done, total)`. settings: see `Record.capture`.
    """
    if settings["part"][1] > 1 and experiment.teacher_weights is None:
        raise SettingError("several processes need one teacher: give all of them the same --teacher-weights")
    if settings["ray"] is not None:
        need_ray()
    material = prepare(experiment)
    if len(names_of(experiment.teacher)) != 1:
        raise SettingError(f"a record is of one teacher; got {experiment.teacher!r}: write one for each")
    wanted(material.full, signals, views)  # mistakes show now, not when the teacher is trained
    place = folder.with_name(f"{folder.name}-teacher")
    (teacher,) = train_teachers(material, place, place.exists(), watch)
    return Record.capture(
        folder, teacher, material.full, signals=signals, views=views, seed=experiment.seed, say=watch.say,
        watch=watch.rows, **settings,
    )  # fmt: skip


def names_of(models: str | None) -> list[str]:
    """Several models are given with commas between them."""
    return [] if models is None else models.split(",")


class Watch:
    """Gives each part of an experiment its watcher; this one gives none."""

    def of(self, part: str, epochs: int) -> Watcher | None:
        return None

    def found(self, findings: Sequence[Finding]) -> None:
        """Told what the check found, before the student trains and after."""


def student_run(
    material: Material, method: Objective, teachers: Sequence[Teacher], folder: Path | None, watcher: Watcher | None
) -> Run:
    """A student's run; alone or distilled, it starts from the same weights and sees the same batches."""
    e = material.experiment
    names = names_of(e.student)
    alone = not teachers and isinstance(method, CE)
    students = [material.model(name, seed=e.seed + 1000 * i) for i, name in enumerate(names[:1] if alone else names)]
    return Run(
        student=students,
        teacher=list(teachers) or None,
        method=method,
        data=material.train,
        test=material.test,
        epochs=e.epochs,
        batch_size=e.batch_size,
        micro_batch=e.micro_batch,
        unlabelled=e.unlabelled,
        optimizer=registry.read(e.optimizer),
        clip=e.clip,
        seed=e.seed,
        precision=e.precision,
        accelerator=e.accelerator,
        compile=e.compile,
        folder=folder,
        watcher=watcher,
    )


def train_teachers(material: Material, folder: Path, resume: bool, watch: Watch) -> list[Net]:
    """The teachers, from their weights or trained here on all labels."""
    e = material.experiment
    names = names_of(e.teacher)
    files = [None] * len(names) if e.teacher_weights is None else names_of(e.teacher_weights)
    if len(files) != len(names):
        raise SettingError(f"{len(names)} teachers ({e.teacher}) and {len(files)} files of weights: give one each")
    teachers = []
    for i, (name, file) in enumerate(zip(names, files, strict=True)):
        net = material.model(name, seed=e.seed + 1_000_000 + i)
        if file is not None:
            load_model(net, Path(file))
        else:
            place = folder / (TEACHER if len(names) == 1 else f"{TEACHER}{i}")
            part = TEACHER if len(names) == 1 else f"{TEACHER} {i + 1}"
            run = Run(
                student=net,
                method=CE(),
                data=material.full,
                epochs=e.teacher_epochs,
                batch_size=e.batch_size,
                optimizer=registry.read(e.optimizer),
                clip=e.clip,
                seed=e.seed + 1_000_000 + i,
                precision=e.precision,
                accelerator=e.accelerator,
                folder=place,
                watcher=watch.of(part, e.teacher_epochs),
            )
            run.fit(resume=resume)
            save_model(net, place.with_suffix(".safetensors"))
        teachers.append(net)
    return teachers


def refuse_mixture(experiment: Experiment, folder: Path, resume: bool) -> None:
    """A folder holds one experiment: another one's parts are neither mixed in nor overwritten unasked."""
    path = folder / "run.yaml"
    if not path.exists():
        if resume and folder.exists() and any(folder.iterdir()):
            raise SettingError(f"{folder} has no run.yaml to resume")
        return
    before = Experiment.read(path)
    if resume and before != experiment:
        changed = [each.name for each in fields(before) if getattr(before, each.name) != getattr(experiment, each.name)]
        raise SettingError(
            f"{folder} was started with other {', '.join(changed)}: resume it as it was, or take another --out"
        )
    if not resume:
        raise SettingError(f"{folder} holds a run already: add --resume to go on with it, or take another --out")


def save_model(net: Net, path: Path) -> None:
    """The bare model's weights, without Limbeck's wrapping, as safetensors."""
    from safetensors.torch import save_model as save

    temporary = path.with_name(path.name + ".partial")
    temporary.touch()
    mode = temporary.stat().st_mode  # by the umask; safetensors makes files for the owner alone
    save(net.module, str(temporary))
    temporary.chmod(mode)
    os.replace(temporary, path)


def load_model(net: Net, path: Path) -> None:
    """Weights that `save_model` wrote. Raises CheckpointError for anything else, and as `refuse_changed`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model as load

    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    refuse_changed(path)
    try:
        load(net.module, str(path))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold the weights of this {net.kind}: {error}") from error


def refuse_changed(path: Path) -> None:
    """Raises CheckpointError for weights whose SHA-256 sum is not the one in the result.json beside them, if any is."""
    result = path.with_name("result.json")
    try:
        told = json.loads(result.read_text()).get("sha256", {}) if result.exists() else {}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{result} is not one of ours, or damaged: {error}") from error
    if path.name in told and checksum(path) != told[path.name]:
        raise CheckpointError(
            f"{path} is not the file that this run wrote (its SHA-256 sum is not the one in {result.name}): it is "
            f"damaged or was changed; take a fresh copy, or distil again"
        )


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)
