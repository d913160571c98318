"""The command line. torch is imported when a command runs, not before: `limbeck --help` answers at once."""

from __future__ import annotations

import re
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
        str | None, typer.Option(help="digits, fashion-mnist, or module:function -> (train, test).")
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
    examples: Annotated[int | None, typer.Option(help="Training examples to use; 0 for all.")] = None,
    labels: Annotated[int | None, typer.Option(help="Labels per class that the student may see; 0 for all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
) -> None:
    """Distil a model: train (or load) the teacher, train the student alone and distilled, write a report.

    Settings of the method are given as [b]--method.tau=4[/b], any other field of run.yaml as
    [b]--batch-size=64[/b], [b]--optimizer='AdamW(0.001)'[/b].
    """
    import yaml

    from limbeck.errors import SettingError
    from limbeck.experiment import Experiment

    given: dict[str, Any] = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "method": method,
        "epochs": epochs,
        "teacher_epochs": teacher_epochs,
        "teacher_weights": teacher_weights,
        "examples": examples,
        "labels": labels,
        "seed": seed,
    }
    fields = {name: number for name, number in given.items() if number is not None}
    settings: dict[str, Any] = {}
    for extra in context.args:
        matched = re.fullmatch(r"--([\w.-]+)=(.*)", extra, re.DOTALL)
        if not matched:
            raise SettingError(f"{extra!r} is no option: write --name=value, e.g. --method.tau=4 or --batch-size=64")
        name, value = matched[1].replace("-", "_"), setting(matched[2], yaml)
        if name.startswith("method."):
            settings[name.removeprefix("method.")] = value
        else:
            fields[name] = matched[2] if name == "optimizer" else value
    for name in ("examples", "labels"):
        if fields.get(name) == 0:
            fields[name] = None  # all
    if fields.get("teacher") == "none":
        fields["teacher"] = None
    if config is not None:
        base = Experiment.read(config)
    elif resume and out is not None:
        base = Experiment.read(out / "run.yaml")
    else:
        base = modest(Experiment(), given)
    if settings or "method" in fields:
        kept = base.settings or {} if "method" not in fields else {}
        fields["settings"] = {**kept, **settings}
    experiment = base.with_settings(**fields)
    if base.teacher == Experiment().teacher and teacher is None and not takes_teacher(experiment):
        experiment = experiment.with_settings(teacher=None)  # nobody asked for the default one
    run(experiment, out or fresh(Path("runs") / folder_name(experiment)), resume)


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


def setting(text: str, yaml: Any) -> Any:
    """A setting as it is meant: a number, a text, a list (as a tuple), or code such as Ramp(0.0, 1.0)."""
    from limbeck.registry import read

    if re.match(r"[A-Z]\w*\(", text):
        return read(text)
    value = yaml.safe_load(text)
    return tuple(value) if isinstance(value, list) else value


def takes_teacher(experiment: Experiment) -> bool:
    """Methods of known needs may do without; code is given the benefit of the doubt."""
    from limbeck.experiment import needs

    return "(" in experiment.method or bool(needs(experiment) & {"teacher", "teachers"})


def modest(experiment: Experiment, given: dict[str, Any]) -> Experiment:
    """Without a GPU, and where the user named no budget, one that ends within minutes, said aloud."""
    import torch

    if torch.cuda.is_available() or given["data"] in (None, "digits"):
        return experiment
    budget = {"examples": 2000, "epochs": 10, "teacher_epochs": 5, "batch_size": 32}
    budget = {name: number for name, number in budget.items() if given.get(name) is None}
    if budget:
        said = " ".join(f"--{name.replace('_', '-')}={number}" for name, number in budget.items())
        typer.secho(
            f"no GPU: a small budget, {said}; give your own for a serious run (--examples=0: all)", dim=True, err=True
        )
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


if __name__ == "__main__":
    main()
