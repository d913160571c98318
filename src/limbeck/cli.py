"""The command line. torch is imported when a command runs, not before: `limbeck --help` answers at once."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.experiment import Experiment

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Knowledge distillation: a smaller, faster or better model from what another one knows.",
)


def main() -> None:
    """Run the command line; errors of ours are one message, not a traceback."""
    try:
        app()
    except LimbeckError as error:
        typer.secho(f"error: {error.args[0]}", fg="red", err=True)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run's files.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the labels, the weights and the batches.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
) -> None:
    """Distil a digit classifier from five labels per class: a teacher, a student alone, a student distilled."""
    import torch

    from limbeck.demo import experiment

    torch.set_num_threads(1)  # on maps this small a second thread costs more than it brings
    run(experiment(seed), fresh(out) if not resume else out, resume)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def distill(
    context: typer.Context,
    data: Annotated[
        str | None, typer.Option(help="digits, fashion-mnist, glosses, or module:function -> (train, test).")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A model's name, or module:function; several with commas; 'none'.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="As --teacher; several with commas teach each other.")] = None,
    method: Annotated[
        str | None, typer.Option(help="A name (see limbeck methods), or code: 'CE() + 0.9 * KL(4.0)'.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A run.yaml to start from; other options override it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run's files.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data, for each student.")] = None,
    teacher_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data, for a teacher trained here.")
    ] = None,
    teacher_weights: Annotated[str | None, typer.Option(help="Its safetensors file, instead of training it.")] = None,
    teacher_record: Annotated[str | None, typer.Option(help="Its record (see limbeck record), read instead.")] = None,
    examples: Annotated[int | None, typer.Option(help="Training examples to use; 0 for all.")] = None,
    labels: Annotated[int | None, typer.Option(help="Labels per class that the student may see; 0 for all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
) -> None:
    """Distil a model: train (or load) the teacher, train the student alone and distilled, write a report.

    Settings of the method are given as [b]--method.tau=4[/b], any other field of run.yaml as
    [b]--batch-size=64[/b], [b]--optimizer='AdamW(0.001)'[/b].
    """
    from limbeck.experiment import Experiment

    given: dict[str, Any] = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "method": method,
        "epochs": epochs,
        "teacher_epochs": teacher_epochs,
        "teacher_weights": teacher_weights,
        "teacher_record": teacher_record,
        "examples": examples,
        "labels": labels,
        "seed": seed,
    }
    if config is not None:
        base = Experiment.read(config)
    elif resume and out is not None:
        base = Experiment.read(out / "run.yaml")
    else:
        base = modest(Experiment(), given)
    experiment = settled(base, given, context.args)
    run(experiment, out or fresh(Path("runs") / folder_name(experiment)), resume)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def compare(
    context: typer.Context,
    methods: Annotated[
        str, typer.Option(help="Names or code, with commas: kd,dkd,'kd(tau=2.0)'. The student alone is always there.")
    ] = "kd",
    data: Annotated[str, typer.Option(help="As in distill.")] = "digits",
    teacher: Annotated[str | None, typer.Option(help="As in distill; it is trained once.")] = None,
    student: Annotated[str | None, typer.Option(help="As in distill; several with commas are all compared.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs per method.")] = 3,
    baseline: Annotated[str, typer.Option(help="What the differences are to.")] = "student alone",
    select: Annotated[
        str, typer.Option(help="last, or best-val: the best epoch on examples held out of training.")
    ] = "last",
    small: Annotated[bool, typer.Option("--small", help="A budget of minutes.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; as many as cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; the same command goes on with it.")] = None,
    join: Annotated[
        Path | None, typer.Option(help="Help with the comparison in this folder, from another machine, say.")
    ] = None,
) -> None:
    """Compare methods: the same data, models and budget, several seeds, intervals, paired differences.

    Any field of run.yaml is given as in distill, e.g. [b]--epochs=20 --labels=5[/b]. Ended or killed, the same
    command with its --out goes on where it stopped; more methods and seeds may be added.
    """
    import os

    import torch

    from limbeck import show
    from limbeck.compare import PARENT, Comparison, Orphan, compare, work
    from limbeck.experiment import Experiment

    if join is not None:
        if PARENT in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            work(join, Orphan())
        else:
            with show.progress() as watch:
                work(join, watch)
        return
    given = {"data": data, "teacher": teacher, "student": student, **others(context.args)}
    base = Experiment().with_settings(**meant({name: value for name, value in given.items() if value is not None}))
    base = modest(base, given, small)
    comparison = Comparison(base, split(methods), seeds, "" if baseline == "student alone" else baseline, select)
    folder = out or fresh(Path("runs") / folder_name(base.with_settings(method="compare")))
    typer.secho(f"{folder}: {len(list(comparison.jobs()))} runs", dim=True, err=True)
    with show.progress() as watch:
        found = compare(
            comparison, folder, workers=workers or os.cpu_count() or 1, watch=watch, count=watch.counter("students")
        )
    show.comparison(found, folder)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tune(
    context: typer.Context,
    methods: Annotated[str, typer.Option(help="Names, with commas: the study chooses among them too.")] = "kd",
    data: Annotated[str, typer.Option(help="As in distill.")] = "digits",
    teacher: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    student: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    trials: Annotated[int, typer.Option(help="Settings to try; 0: only say what to try first.")] = 30,
    small: Annotated[bool, typer.Option("--small", help="A budget of minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; the same command goes on with it.")] = None,
) -> None:
    """Find a method's temperature, weights and layers by Optuna, on examples held out of training.

    Says first what the data and the two models suggest. Any field of run.yaml is given as in distill.
    """
    from limbeck import show
    from limbeck.experiment import Experiment, names_of, prepare
    from limbeck.tune import Tuning, recommend, tune

    given = {"data": data, "teacher": teacher, "student": student, **others(context.args)}
    base = Experiment().with_settings(**meant({name: value for name, value in given.items() if value is not None}))
    base = modest(base, given, small)
    material = prepare(base)
    for said in recommend(material, [material.model(name, seed=0) for name in names_of(base.teacher)]):
        typer.echo(said)
    if trials == 0:
        return
    folder = out or fresh(Path("runs") / folder_name(base.with_settings(method="tune")))
    with show.progress(transient=True) as watch:
        found = tune(Tuning(base, split(methods), trials), folder, watch)
    show.tuned(found, folder)


@app.command(context_settings={"ignore_unknown_options": True})
def check(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[FOLDER]", help="A finished run's: look at its student too.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    teacher: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    teacher_weights: Annotated[str | None, typer.Option(help="Its safetensors file; without, it is not asked.")] = None,
    student: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    method: Annotated[str | None, typer.Option(help="As in distill.")] = None,
    config: Annotated[Path | None, typer.Option(help="A run.yaml to start from.")] = None,
    slices: Annotated[
        str | None, typer.Option(help="module:function: parts of the test set to look at, beside the classes.")
    ] = None,
) -> None:
    """Look at labels, teacher and sizes before training; with FOLDER, at what the teacher passed on to its student.

    Trains nothing and blocks nothing; distill says the same. Any field of run.yaml is given as in distill.
    """
    from limbeck import findings, show
    from limbeck.experiment import Experiment

    given: dict[str, Any] = {
        "data": data,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "student": student,
        "method": method,
        "slices": slices,
    }
    words = words or []  # click takes options that it does not know for arguments
    first = next((word for word in words if not word.startswith("--")), None)
    folder = None if first is None else Path(first)
    start = config if folder is None else folder / "run.yaml"
    base = Experiment() if start is None else Experiment.read(start)
    experiment = settled(base, given, [word for word in words if word is not first])
    show.findings(findings.check(experiment, folder))


record = typer.Typer(help="Write what a teacher says of every example, to teach from it without running it.")
app.add_typer(record, name="record")


@record.callback(invoke_without_command=True)
def write_record(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder of the record.")] = None,
    data: Annotated[str | None, typer.Option(help="As for distill.")] = None,
    teacher: Annotated[str | None, typer.Option(help="A model's name, or module:function.")] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help="Its safetensors file; without, it is trained here first.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A run.yaml whose data and teacher are meant.")] = None,
    signals: Annotated[
        str, typer.Option(help="name:encoding,...: logits:topk=10, embedding:fp16, layer3:fp32, logits:head, ...")
    ] = "logits:fp32",
    views: Annotated[str, typer.Option(help="name:epochs=N,...; a view that is not random is written once.")] = "x",
    augment: Annotated[bool | None, typer.Option("--augment", help="View x is a random crop (and flip).")] = None,
    teacher_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data, for a teacher trained here.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Training examples to use.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the views; the run that reads the record must have it.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples per forward of the teacher.")] = 256,
    part: Annotated[str, typer.Option(help="i/n: this process writes the i-th of n parts, counted from 0.")] = "0/1",
    ray: Annotated[
        int | None, typer.Option(help="Parts for the nodes of a Ray cluster (RAY_ADDRESS, or this machine) to write.")
    ] = None,
) -> None:
    """Record a teacher. Given again, the same command goes on after a stop and mends what is damaged."""
    if context.invoked_subcommand is not None:
        return
    from limbeck import show
    from limbeck.experiment import Experiment, record_teacher

    given = {
        "data": data,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "augment": augment,
        "teacher_epochs": teacher_epochs,
        "examples": examples,
        "seed": seed,
    }
    base = Experiment() if config is None else Experiment.read(config)
    experiment = base.with_settings(**{name: number for name, number in given.items() if number is not None})
    with show.recording() as watch:
        made = record_teacher(
            experiment,
            out or Path("runs") / "record",
            signals=pairs(signals, "fp32"),
            views={name: epochs(text) for name, text in pairs(views, "epochs=1").items()},
            batch_size=batch_size,
            part=part_of(part),
            ray=ray,
            command=shlex.join(["limbeck", *sys.argv[1:]]),
            watch=watch,
        )
    show.record(made)


@record.command("inspect")
def inspect_record(
    path: Annotated[Path, typer.Argument(help="Folder of the record.")],
    verify: Annotated[bool, typer.Option("--verify", help="Also read all of it and compare the checksums.")] = False,
) -> None:
    """Show what a record holds, how large it is, and how far it is from what the teacher said."""
    from limbeck import show
    from limbeck.records import Record

    opened = Record.open(path)
    show.record(opened)
    if verify:
        opened.verify()
        typer.echo("every shard is as it was written")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this one's card.")] = None,
    family: Annotated[str | None, typer.Option(help="Only this family, e.g. logit.")] = None,
    signal: Annotated[
        str | None, typer.Option(help="Only those that learn from this: labels, logits, features, peers.")
    ] = None,
    needs: Annotated[
        str | None,
        typer.Option(help="Only those that need this: teacher, teachers, students, labels, unlabelled, strong."),
    ] = None,
) -> None:
    """List the methods, or show one: what it does, its equation, settings and parts, what was measured."""
    from limbeck import show

    show.method(name) if name else show.methods(family=family, signal=signal, needs=needs)


def settled(base: Experiment, given: dict[str, Any], words: list[str]) -> Experiment:
    """`base` with the options that were given, and those of other `words`; --method.NAME is a setting of the method."""
    fields = {name: value for name, value in given.items() if value is not None}
    settings: dict[str, Any] = {}
    for name, value in others(words).items():
        if name.startswith("method."):
            settings[name.removeprefix("method.")] = value
        else:
            fields[name] = value
    fields = meant(fields)
    if settings or "method" in fields:
        kept = base.settings or {} if "method" not in fields else {}
        fields["settings"] = {**kept, **settings}
    experiment = base.with_settings(**fields)
    if base.teacher == type(base)().teacher and "teacher" not in fields and not takes_teacher(experiment):
        experiment = experiment.with_settings(teacher=None)  # nobody asked for the default one
    return experiment


def others(words: list[str]) -> dict[str, Any]:
    """Fields of run.yaml and settings of the method that have no option of their own."""
    from limbeck.errors import SettingError

    found = {}
    for word in words:
        matched = re.fullmatch(r"--([\w.-]+)=(.*)", word, re.DOTALL)
        if not matched:
            raise SettingError(f"{word!r} is no option: write --name=value, e.g. --method.tau=4 or --batch-size=64")
        name = matched[1].replace("-", "_")
        found[name] = matched[2] if name == "optimizer" else setting(matched[2])
    return found


def meant(fields: dict[str, Any]) -> dict[str, Any]:
    """0 examples or labels are all of them; the teacher "none" is none."""
    none = {"examples": 0, "labels": 0, "teacher": "none"}
    return {name: None if name in none and value == none[name] else value for name, value in fields.items()}


def split(methods: str) -> tuple[str, ...]:
    """At the commas that are in no brackets."""
    return tuple(part.strip() for part in re.split(r",(?![^(]*\))", methods))


def pairs(text: str, default: str) -> dict[str, str]:
    """ "a:x,b" as {"a": "x", "b": default}."""
    found = (part.partition(":") for part in text.split(","))
    return {name: value or default for name, _, value in found}


def epochs(text: str) -> int:
    from limbeck.errors import SettingError

    matched = re.fullmatch(r"epochs=(\d+)", text)
    if not matched:
        raise SettingError(f"{text!r} is no number of epochs: write --views x:epochs=30")
    return int(matched[1])


def part_of(text: str) -> tuple[int, int]:
    from limbeck.errors import SettingError

    matched = re.fullmatch(r"(\d+)/(\d+)", text)
    if not matched:
        raise SettingError(f"{text!r} is no part: write --part 0/4, 1/4, 2/4 and 3/4 for four processes")
    return int(matched[1]), int(matched[2])


def setting(text: str) -> Any:
    """A setting as it is meant: a number, a text, a list (as a tuple), or code such as Ramp(0.0, 1.0)."""
    import yaml

    from limbeck.registry import read

    if re.match(r"[A-Z]\w*\(", text):
        return read(text)
    value = yaml.safe_load(text)
    return tuple(value) if isinstance(value, list) else value


def takes_teacher(experiment: Experiment) -> bool:
    """Methods of known needs may do without; code is given the benefit of the doubt."""
    from limbeck.experiment import needs

    return "(" in experiment.method or bool(needs(experiment) & {"teacher", "teachers"})


def modest(experiment: Experiment, given: dict[str, Any], small: bool = False) -> Experiment:
    """Asked for, or without a GPU and where the user named no budget: one that ends within minutes, said aloud."""
    import torch

    if not small and (torch.cuda.is_available() or given["data"] in (None, "digits")):
        return experiment
    budget = {"examples": 2000, "epochs": 10, "teacher_epochs": 15, "batch_size": 32}
    budget = {name: number for name, number in budget.items() if given.get(name) is None}
    if budget:
        said = " ".join(f"--{name.replace('_', '-')}={number}" for name, number in budget.items())
        typer.secho(f"a small budget, {said}; give your own for a serious run (--examples=0: all)", dim=True, err=True)
    return experiment.with_settings(**budget)


def folder_name(experiment: Experiment) -> str:
    words = [
        experiment.data,
        experiment.student.split(",")[0],
        experiment.method if "(" not in experiment.method else "own",
    ]
    return re.sub(r"[^\w.-]+", "-", "-".join(words))


def fresh(folder: Path) -> Path:
    """The folder, or its name with the first free number."""
    free, number = folder, 1
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def run(experiment: Experiment, folder: Path, resume: bool) -> None:
    from limbeck import show
    from limbeck.errors import Interrupted
    from limbeck.experiment import distil

    try:
        with show.progress() as watch:
            result = distil(experiment, folder, resume=resume, watch=watch)
    except Interrupted as interrupted:  # here, as typer would turn it into a bare "Aborted"
        typer.secho(f"\n{interrupted.args[0]}", fg="yellow", err=True)
        typer.secho(f"limbeck distill --out {folder} --resume", err=True)
        raise typer.Exit(130) from None
    show.result(result, folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The --out of a finished distill, demo or compare.")],
) -> None:
    """Write a finished run's page anew, from the numbers that lie beside it."""
    from limbeck.report import refresh

    for page in refresh(folder):
        typer.echo(f"report: {page}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A finished run's, such as runs/demo.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files.", show_default="export in the run's")] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="Of safetensors, onnx, hf (for models of transformers), with commas.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also ONNX with 8-bit weights.")] = False,
) -> None:
    """Write a run's student as safetensors and ONNX, compare all test examples, and measure what each format costs."""
    from limbeck import show
    from limbeck.export import export_run

    out = out or fresh(folder / "export")
    show.exported(export_run(folder, out, formats=formats.split(",") if formats else None, int8=int8), out)


if __name__ == "__main__":
    main()
