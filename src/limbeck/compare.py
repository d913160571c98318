"""Methods against each other: the same data, models and budget, several seeds, one table with intervals.

compare.yaml  ->  the teacher, trained once  ->  a run per arm and seed  ->  compare.json, compare.html

Every run is a job with a folder and a lock file: any number of workers, on this machine or on others that see the
folder, take jobs that nobody holds. A killed worker's lock falls with it, and its job goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch.profiler import ProfilerActivity, profile

from limbeck import registry
from limbeck.blocks.logit import CE
from limbeck.data import Data, plain as plain_view
from limbeck.errors import Interrupted, LimbeckError, SettingError, nearest
from limbeck.evaluate import cost, fidelity, interval, paired, scores
from limbeck.experiment import (
    ALONE,
    TEACHER,
    Experiment,
    Material,
    Watch,
    load_model,
    named,
    names_of,
    needs,
    prepare,
    save_model,
    student_run,
    train_teachers,
    write_whole,
)
from limbeck.judging import environment
from limbeck.records import Cached, Record
from limbeck.run import Row, Run, Watcher
from limbeck.signals import Net
from limbeck.teachers import Teacher

SCORES = ("accuracy", "nll", "ece", "agreement", "kl")
COSTS = ("parameters", "flops", "bytes", "latency_ms", "throughput")


@dataclass(frozen=True)
class Arm:
    """A line of the table: a method, by name or code, on a student (or two, that teach each other)."""

    name: str
    method: str
    student: str

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.=]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class Comparison:
    """base: data, models and budget of all; its `method` is not used, its `student` may name several, with commas.
    methods: names, with or without settings, or code: "kd", "kd(tau=2.0)", "CE() + KL(4.0)". The student alone is
        always there. seeds: how many. baseline: the arm that the differences are to.
    select: "last": the last epoch's weights; "best-val": those of the best accuracy on the validation examples, a
        tenth of the training examples if `base` says nothing else. Never chosen on the test set.
    """

    base: Experiment
    methods: tuple[str, ...]
    seeds: int = 3
    baseline: str = ""
    select: str = "last"

    def __post_init__(self) -> None:
        if self.select not in ("last", "best-val"):
            raise SettingError(f"select is 'last' or 'best-val'; got {self.select!r}")
        if self.select == "best-val" and self.base.validation == 0:
            object.__setattr__(self, "base", replace(self.base, validation=0.1))
        if self.seeds < 1:
            raise SettingError(f"seeds is at least 1; got {self.seeds}")
        arms = self.arms()
        if not self.baseline:
            object.__setattr__(self, "baseline", next(iter(arms)))
        if self.baseline not in arms:
            raise SettingError(f"baseline: there is no {self.baseline!r}; {nearest(self.baseline, arms)}")

    def arms(self) -> dict[str, Arm]:
        """By name, the student alone first; with several students, the names say which."""
        students = names_of(self.base.student)
        found = {}
        for name, method in {ALONE: "supervised", **{name: complete(name) for name in self.methods}}.items():
            for student in students:
                label = name if len(students) == 1 else f"{name}, {student}"
                arm = Arm(label, method, student)
                peers = "students" in needs(self.experiment(arm, 0))
                found[label] = replace(arm, student=f"{student},{student}") if peers else arm
        return found

    def experiment(self, arm: Arm, seed: int) -> Experiment:
        return replace(self.base, method=arm.method, student=arm.student, seed=seed, settings=None)

    def jobs(self) -> Iterator[tuple[Arm, int]]:
        """All arms of a seed before the next seed: a table that ends early is a fair one."""
        for seed in range(self.seeds):
            for arm in self.arms().values():
                yield arm, seed

    def write(self, folder: Path) -> None:
        write_whole(folder / "compare.yaml", yaml.safe_dump({**asdict(self), "methods": list(self.methods)}))

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        path = folder / "compare.yaml"
        if not path.exists():
            raise SettingError(f"{folder} holds no comparison: there is no compare.yaml")
        given = yaml.safe_load(path.read_text())
        return cls(**{**given, "base": Experiment().with_settings(**given["base"]), "methods": tuple(given["methods"])})


def complete(method: str) -> str:
    """A method without defaults takes the settings of its example, and says so by its code."""
    if "(" in method:
        return method
    found = registry.find(method)
    example = ", ".join(f"{name}={value!r}" for name, value in found.example.items())
    return f"{method}({example})" if example else method


# ---- the jobs -------------------------------------------------------------------------------------------------------


def begin(comparison: Comparison, folder: Path) -> None:
    """Try every arm on two examples, then write compare.yaml. Methods and seeds may be added to a folder's.

    Raises SettingError if the folder holds a comparison on other data, models or budget, or something else.
    """
    if (folder / "compare.yaml").exists():
        before = Comparison.read(folder)
        changed = [
            f.name for f in fields(Experiment) if getattr(before.base, f.name) != getattr(comparison.base, f.name)
        ]
        changed += ["select"] * (before.select != comparison.select)
        if changed:
            raise SettingError(
                f"{folder} holds a comparison with other {', '.join(changed)}: repeat those settings to go on with it, "
                f"or take another --out"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise SettingError(f"{folder} holds something else: take another --out")
    for arm in comparison.arms().values():
        e = comparison.experiment(arm, 0)
        material = prepare(e)
        untrained: list[Teacher] = [material.model(name, seed=0) for name in names_of(e.teacher)]
        if needs(e) & {"teacher", "teachers"} and not untrained:
            raise SettingError(f"{arm.name} learns from a teacher: give --teacher resnet20x4, say")
        student_run(material, e.objective(), taught_by(e, untrained), None, None).setup()
    folder.mkdir(parents=True, exist_ok=True)
    comparison.write(folder)


def work(folder: Path, watch: Watch | None = None) -> None:
    """Do jobs that nobody holds until all are done; several workers may call this at once, also on other machines."""
    comparison, watch = Comparison.read(folder), watch or Watch()
    teachers = trained(comparison, folder, watch)
    left = list(comparison.jobs())
    while left:
        before = len(left)
        for arm, seed in left:
            result = result_of(folder, arm, seed)
            place = result.parent
            place.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(place / "lock", timeout=0):
                    if not result.exists():
                        job(comparison, arm, seed, teachers, folder, watch)
            except Timeout:
                continue
        left = [(arm, seed) for arm, seed in left if not result_of(folder, arm, seed).exists()]
        if len(left) == before:
            time.sleep(1.0)  # others are at them


def result_of(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / "runs" / f"{arm.folder}-{seed}" / "result.json"


def trained(comparison: Comparison, folder: Path, watch: Watch) -> list[Net]:
    """The teachers, trained by the first who comes; what they say of the test set, and one also of the examples that
    students learn from, goes into files."""
    e = comparison.experiment(next(iter(comparison.arms().values())), 0)
    count = len(names_of(e.teacher))
    if count == 0:
        return []
    with FileLock(folder / "lock"):
        if not (folder / "answers.safetensors").exists():
            teachers = train_teachers(prepare(e), folder, resume=True, watch=watch)
            material, test = prepare(e), prepare(e).test
            asked = Run(student=teachers[0], data=test, method=CE(), accelerator=e.accelerator)
            asked.setup()
            if count == 1:
                Record.capture(folder / "record", teachers[0], Data(material.full.x))
            answers = {str(i): asked.predict(net, test) for i, net in enumerate(teachers)}
            (folder / "answers.partial").write_bytes(save(answers))
            os.replace(folder / "answers.partial", folder / "answers.safetensors")
    weights = ",".join(str(folder / f"{TEACHER}{i if count > 1 else ''}.safetensors") for i in range(count))
    return train_teachers(prepare(replace(e, teacher_weights=weights)), folder, resume=True, watch=watch)


def job(comparison: Comparison, arm: Arm, seed: int, teachers: Sequence[Teacher], folder: Path, watch: Watch) -> None:
    """One run, from where it stopped; its result is the last thing written."""
    place = result_of(folder, arm, seed).parent
    e = comparison.experiment(arm, seed)
    material = prepare(e)
    best = Best(place) if comparison.select == "best-val" else None
    watchers = [each for each in (best, watch.of(f"{arm.name} {seed}", e.epochs)) if each is not None]
    found: Row = {"arm": arm.name, "seed": seed, "epoch": e.epochs}
    taught = taught_by(e, teachers)
    if taught and readable(e, material):
        taught = [Cached(folder / "record")]
    found["memory"] = memory(student_run(material, e.objective(), taught, None, None))
    run = student_run(material, e.objective(), taught, place, Several(watchers))
    run = replace(run, test=material.validation)
    run.fit(resume=True)
    found["seconds"] = e.epochs * statistics.median(row["seconds"] for row in run.history)
    if best is not None:
        found["epoch"] = best.load(run)
    y = material.test.y
    assert y is not None
    logits = run.predict(run.students[0], material.test)
    found |= scores(logits, y)
    if len(teachers) == 1:
        found |= fidelity(logits, load_file(folder / "answers.safetensors")["0"])
    save_model(run.students[0], place / "student.safetensors")
    write_whole(place / "result.json", json.dumps(found))
    (place / "last.ckpt").unlink()


def taught_by(experiment: Experiment, teachers: Sequence[Teacher]) -> Sequence[Teacher]:
    """Those of the teachers that the method asks: all, unless it is known to need none."""
    return teachers if named(experiment) is None or needs(experiment) & {"teacher", "teachers"} else []


def readable(experiment: Experiment, material: Material) -> bool:
    """Is the record, of one teacher's logits on the plain images, all that the method asks?"""
    method = named(experiment)
    layers = any(role == "teacher" for role, _ in experiment.objective().reads)
    plain = set(material.train.views) <= {"x", "strong"} and material.train.views["x"] is plain_view
    running = method is None or method.needs & {"strong", "teachers"} or method.name in ("hard", "lelp")
    return plain and not layers and not running and len(names_of(experiment.teacher)) == 1


class Several:
    """Some watchers as one."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def step(self, run: Run) -> None:
        for each in self.watchers:
            each.step(run)

    def epoch(self, run: Run, row: Row) -> None:
        for each in self.watchers:
            each.epoch(run, row)


class Best:
    """Keeps the student of the epoch with the best accuracy on the validation examples; of equal ones the first."""

    def __init__(self, place: Path) -> None:
        self.path = place / "best.safetensors"

    def step(self, run: Run) -> None: ...

    def epoch(self, run: Run, row: Row) -> None:
        if best_epoch(run.history) == row["epoch"]:
            save_model(run.students[0], self.path)

    def load(self, run: Run) -> int:
        load_model(run.students[0], self.path)
        return best_epoch(run.history)


def best_epoch(history: Sequence[Row]) -> int:
    return int(max(history, key=lambda row: (row["accuracy"], -row["epoch"]))["epoch"])


def memory(run: Run) -> int:
    """The most bytes of tensors that are alive at once, optimiser and state too, in a run's first two steps."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run.setup()
        for _ in islice(run.train_epoch(threading.Event()), 2):
            pass
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    changes = (event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]")
    alive = accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns()))
    return max(alive, default=0)


# ---- the table ------------------------------------------------------------------------------------------------------


def collect(folder: Path) -> dict[str, Any]:
    """What compare.json holds, of the runs that are there."""
    comparison = Comparison.read(folder)
    base, arms = comparison.base, comparison.arms()
    paths = [(arm, result_of(folder, arm, seed)) for arm, seed in comparison.jobs()]
    runs = [json.loads(path.read_text()) for _, path in paths if path.exists()]
    material = prepare(comparison.experiment(arms[comparison.baseline], 0))
    nets = {name: material.model(name, seed=0) for name in dict.fromkeys(names_of(base.student))}
    names = names_of(base.teacher)
    teacher = None
    if len(names) == 1:
        nets[TEACHER] = material.model(names[0], seed=0)
    costs = cost(nets, material.example)
    if len(names) == 1:
        assert material.test.y is not None
        teacher = {**scores(load_file(folder / "answers.safetensors")["0"], material.test.y), **costs[TEACHER]}
    rows = table(runs, comparison.baseline, [name for name, arm in arms.items() if arm.method.startswith("kd")])
    for row in rows:
        row |= {key: costs[names_of(arms[row["arm"]].student)[0]][key] for key in COSTS}
    best = rows[0]["arm"] if rows else "-"
    return {
        "title": f"{len(arms)} arms on {base.data}",
        "summary": f"{best} comes first of {len(rows)}, by the mean accuracy over {comparison.seeds} seeds.",
        "settings": {
            name: value for name, value in asdict(base).items() if name not in ("method", "settings", "seed", "alone")
        },
        "methods": {name: repr(comparison.experiment(arm, 0).objective()) for name, arm in arms.items()},
        "students": {name: arm.student for name, arm in arms.items()},
        "baseline": comparison.baseline,
        "select": comparison.select,
        "seeds": list(range(comparison.seeds)),
        "teacher": teacher,
        "runs": runs,
        "table": rows,
        "curves": {
            arm.name: history(path.parent) for arm, path in paths if path.exists() and path.parent.name.endswith("-0")
        },
        "environment": environment("cuda" if torch.cuda.is_available() else "cpu", base.precision),
        "command": command(comparison),
    }


def command(comparison: Comparison) -> str:
    """What to type to do it again."""
    usual, words = Experiment(), ["limbeck compare", f"--methods {shlex.quote(','.join(comparison.methods))}"]
    for each in fields(Experiment):
        given = getattr(comparison.base, each.name)
        if each.name not in ("method", "settings", "seed", "alone") and given != getattr(usual, each.name):
            words.append(f"--{each.name.replace('_', '-')}={shlex.quote('0' if given is None else str(given))}")
    words += [f"--seeds={comparison.seeds}", f"--baseline={shlex.quote(comparison.baseline)}"]
    return " ".join([*words, f"--select={comparison.select}"])


def history(place: Path) -> list[Row]:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def table(runs: Sequence[Mapping[str, Any]], baseline: str, kd: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row per arm, the best first: means over seeds with 95 % intervals by Student's t, [mean, low, high].

    difference: accuracy minus the baseline's, paired by the seeds that both have. time, memory: over those of the first
    of the arms `kd` that is there, the medians over the seeds.
    """
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    plain = next((by_arm[name] for name in kd if name in by_arm), None)
    rows = []
    for name, found in by_arm.items():
        row: dict[str, Any] = {"arm": name, "difference": None}
        for key in SCORES:
            values = [run[key] for run in found.values() if key in run]
            row[key] = spread(interval(values)) if values else None
        seeds = sorted(found.keys() & by_arm.get(baseline, {}).keys())
        if name != baseline and seeds:
            pairs = [[one[seed]["accuracy"] for seed in seeds] for one in (found, by_arm[baseline])]
            row["difference"] = spread(paired(*pairs))
        for key, figure in (("time", "seconds"), ("memory", "memory")):
            row[key] = ratio(found.values(), plain.values(), figure) if plain else None
        rows.append(row)
    rows.sort(key=lambda row: -row["accuracy"][0])
    return [{"arm": row["arm"], "rank": rank, **row} for rank, row in enumerate(rows, 1)]


def spread(of: tuple[float, float, float]) -> list[float | None]:
    """As JSON has it: one seed has no interval."""
    return [None if math.isnan(number) else number for number in of]


def ratio(runs: Iterable[Mapping[str, Any]], plain: Iterable[Mapping[str, Any]], figure: str) -> float | None:
    numbers = [[run[figure] for run in each if run[figure] is not None] for each in (runs, plain)]
    return statistics.median(numbers[0]) / statistics.median(numbers[1]) if all(numbers) else None


def finish(folder: Path) -> dict[str, Any]:
    """Write compare.json and its page; the comparison so far."""
    from limbeck import report

    found = collect(folder)
    write_whole(folder / "compare.json", json.dumps(found, indent=1))
    report.compare(folder / "compare.html", found)
    return found


# ---- several workers ------------------------------------------------------------------------------------------------

PARENT = "LIMBECK_PARENT"


def compare(
    comparison: Comparison,
    folder: Path,
    *,
    workers: int = 1,
    watch: Watch | None = None,
    count: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """All of it: what compare.json then holds. Call it again after a kill, and it goes on.

    workers: processes that share this machine's cores; the teacher is trained with all cores before they start.
    count: told how many epochs are done, and of how many.
    """
    begin(comparison, folder)
    trained(comparison, folder, watch or Watch())
    processes = [spawn(folder, i, max(1, (os.cpu_count() or 1) // workers)) for i in range(workers)]
    total = len(list(comparison.jobs())) * comparison.base.epochs
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(0.2)
            if any(process.poll() for process in processes):
                break
            count(epochs_done(folder), total)
    except KeyboardInterrupt:
        for process in processes:  # ctrl-C reached them too: they save and end
            process.wait()
        raise Interrupted(f"stopped; the same command goes on with {folder}") from None
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    for i, process in enumerate(processes):
        if process.wait() not in (0, -signal.SIGTERM):
            tail = (folder / f"worker{i}.log").read_text().strip()[-2000:]
            raise LimbeckError(f"a worker ended with {process.returncode}; {folder}/worker{i}.log ends:\n{tail}")
    return finish(folder)


def spawn(folder: Path, number: int, threads: int) -> subprocess.Popen[bytes]:
    """`limbeck compare --join`, in a process that ends when this one does."""
    with open(folder / f"worker{number}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "limbeck.cli", "compare", "--join", str(folder)],
            env={**os.environ, PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(threads)},
            stdout=log,
            stderr=log,
        )


def epochs_done(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "runs").glob("*/metrics.jsonl"))


class Orphan(Watch):
    """Ends the process when its parent has been killed: the one that is started next shall find no rival."""

    def of(self, part: str, epochs: int) -> Orphan:
        return self

    def step(self, run: Run) -> None:
        if os.getppid() != int(os.environ[PARENT]):
            sys.exit("the process that started this worker is gone")

    def epoch(self, run: Run, row: Row) -> None: ...
