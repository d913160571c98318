"""What a person sees in the terminal: progress bars, the table at the end, the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from limbeck import registry
from limbeck.cards import NOTATION, about, card
from limbeck.experiment import DISTILLED, Watch
from limbeck.registry import Method
from limbeck.run import Row, Run


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


def methods(*, family: str | None, signal: str | None, needs: str | None) -> None:
    """The catalogue, or a part of it: a line each."""
    console = Console()
    wide = console.width >= 100
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    if wide:
        table.add_column("learns from", max_width=console.width - 84)
    chosen = registry.every(family=family, needs=needs, signal=signal)
    for before, each in zip([None, *chosen], chosen, strict=False):
        if before is None or before.family != each.family:
            table.add_row(f"[dim]{each.family}[/dim]", f"[dim]{escape(about(each))}[/dim]")
        table.add_row(f"  [bold]{each.name}[/bold]", escape(each.summary), *((sources(each),) if wide else ()))
    console.print(table)
    console.print("\nIn brackets: where there are any. limbeck methods NAME shows one.", highlight=False)


def sources(method: Method) -> str:
    """What it learns from, in few words."""
    signals = method.facts.get("signals", sorted(method.needs))
    words = [f"({name})" if name == "labels" and name not in method.needs else name for name in signals]
    return ", ".join(words + sorted(method.needs & {"unlabelled", "strong"}.difference(words)))


def method(name: str) -> None:
    """One method's card."""
    console = Console()
    shown = card(registry.find(name))
    console.print(f"[bold]{shown.name}[/bold]  ({shown.family})\n", highlight=False)
    for paragraph in (shown.does, shown.equation, shown.notes):
        if paragraph:
            style = "green" if paragraph == shown.equation else None
            console.print(escape(paragraph), style=style, highlight=False, end="\n\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for label, text in (("call", shown.call), *shown.rows, ("notation", NOTATION if shown.equation else "")):
        if text:
            table.add_row(label, escape(text))
    console.print(table, highlight=False)
