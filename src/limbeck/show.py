"""What a person sees in the terminal: progress bars, the table at the end, the catalogue."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from limbeck import registry
from limbeck.experiment import DISTILLED, Watch
from limbeck.run import Row, Run

if TYPE_CHECKING:
    from limbeck.records import Record


class Bar:
    """The progress of one run: steps done, rate, time left, the last epoch's figures."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def step(self, run: Run) -> None:
        if self.progress.tasks[self.task].total is None:
            self.progress.start_task(self.task)
            self.progress.update(self.task, total=len(run.plan(run.epoch)) * run.epochs)
        self.progress.update(self.task, completed=run.steps_done)

    def epoch(self, run: Run, row: Row) -> None:
        figures = f"loss {row['loss']:.3f}" + (f"  accuracy {row['accuracy']:.1%}" if "accuracy" in row else "")
        self.progress.update(self.task, completed=run.steps_done, figures=figures)


class Bars(Watch):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def of(self, part: str, epochs: int) -> Bar:
        return Bar(self.progress, self.progress.add_task(part, total=None, start=False, figures=""))


@contextmanager
def progress() -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Bars(bars)


@contextmanager
def recording() -> Iterator[Recording]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Recording(bars)


class Recording(Bars):
    """The bars of a capture: of the teacher's training, if there is one, and of its examples."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self.task: TaskID | None = None
        self.started = 0.0

    def of(self, part: str, epochs: int) -> Bar:
        return Bar(self.progress, self.progress.add_task(part, total=None, start=False, figures="", rate=""))

    def say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False)

    def rows(self, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.progress.add_task("record", total=total, completed=done, figures="", rate="")
            self.before, self.started = done, time.perf_counter()
        rate = (done - self.before) / max(time.perf_counter() - self.started, 1e-9)
        self.progress.update(self.task, completed=done, rate=f"{rate:,.0f}/s")


def record(record: Record) -> None:
    """What a record holds."""
    from limbeck.records.inspect import summary

    found, console = summary(record), Console()
    shards, wanted = found["shards"]
    lines = {
        "teacher": found["teacher"],
        "examples": f"{found['examples']:,}",
        "size": f"{found['bytes']:,} bytes, {found['row_bytes']:,} per example and view",
        "shards": f"{shards} of {wanted}" + ("" if shards == wanted else f"; go on with {found['command']}"),
        "seed": str(found["seed"]),
    }
    for name, view in found["views"].items():
        kind = f"random, {view['epochs']} epochs" if view["random"] else "not random"
        lines[f"view {name}"] = f"{kind}  {view['code'] or ''}"
    for name, signal in found["signals"].items():
        tokens = math.prod(signal["shape"][:-1]) if name == ".logits" else 1
        per = f"{signal['bytes']} bytes" + (f", {signal['bytes'] / tokens:.4g} per token" if tokens > 1 else "")
        off = ", ".join(f"{figure.replace('_', ' ')} {number:.3g}" for figure, number in signal["error"].items())
        lines[f"signal {name}"] = f"{signal['shape']}  {signal['encoding']!r}  {per}  error: {off}"
    lines["made by"] = found["command"]
    width = max(map(len, lines))
    for name, line in lines.items():
        console.print(f"{name:<{width}}  {escape(line)}", highlight=False, soft_wrap=True)


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", lambda v: f"{v:.1%}"),
    "nll": ("NLL", lambda v: f"{v:.3f}"),
    "ece": ("calibration error", lambda v: f"{v:.1%}"),
    "agreement": ("agreement", lambda v: f"{v:.1%}"),
    "kl": ("KL to teacher", lambda v: f"{v:.3f}"),
    "parameters": ("parameters", lambda v: f"{v:,.0f}"),
    "flops": ("MFLOPs", lambda v: f"{v / 1e6:,.2f}"),
    "bytes": ("file, kB", lambda v: f"{v / 1e3:,.0f}"),
    "latency_ms": ("latency, ms", lambda v: f"{v:.2f}"),
    "throughput": ("examples / s", lambda v: f"{v:,.0f}"),
}


def result(result: Mapping[str, Any], folder: Path) -> None:
    """The table at the end: a row per figure, a column per model."""
    console = Console()
    models = result["models"]
    table = Table(title=escape(result["method"]), title_style="bold")
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right", style="bold" if name == DISTILLED else "")
    for key, (label, form) in FIGURES.items():
        if any(key in figures for figures in models.values()):
            table.add_row(label, *(form(figures[key]) if key in figures else "-" for figures in models.values()))
    console.print(table)
    console.print(result["summary"], highlight=False)
    console.print(f"report: {folder / 'report.html'}", highlight=False)


def methods(*, family: str | None, needs: str | None) -> None:
    """The catalogue, or a part of it: a line each."""
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    chosen = registry.every(family=family, needs=needs)
    for before, each in zip([None, *chosen], chosen, strict=False):
        if before is None or before.family != each.family:
            table.add_row(f"[dim]{each.family}[/dim]")
        wants = f" [dim](needs {', '.join(sorted(each.needs))})[/dim]" if each.needs else ""
        table.add_row(f"  [bold]{each.name}[/bold]", escape(each.summary) + wants)
    console.print(table)
    console.print("\nlimbeck methods NAME shows one.", highlight=False)


def method(name: str) -> None:
    """One method's card."""
    console = Console()
    each = registry.find(name)
    console.print(f"[bold]{each.name}[/bold]  ({each.family})", highlight=False)
    console.print(escape(inspect.getdoc(each.build) or ""), highlight=False)
    console.print(f"\nsource    {escape(each.paper)}", highlight=False)
    console.print(f"needs     {', '.join(sorted(each.needs)) or 'nothing'}", highlight=False)
    for setting in each.signature.parameters.values():
        default = "(required)" if setting.default is setting.empty else f"= {setting.default!r}"
        console.print(f"setting   {setting.name}: {escape(str(setting.annotation))} {escape(default)}", highlight=False)
    objective = each(**each.example)
    console.print(f"is        {escape(repr(objective))}", highlight=False)
    if objective.couples_examples:
        console.print("couples   the examples of a batch: micro-batches and ranks change the result", highlight=False)
