"""What a person sees in the terminal: progress bars, the table at the end, the catalogue."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from limbeck import registry
from limbeck.cards import NOTATION, about, card
from limbeck.experiment import DISTILLED, Watch
from limbeck.registry import Entry, Method
from limbeck.run import Row, Run

if TYPE_CHECKING:
    from limbeck.findings import Finding
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

    def found(self, findings: Sequence[Finding]) -> None:
        for each in findings:
            if each.level != "ok":
                self.progress.console.print(line(each), highlight=False)

    def counter(self, part: str) -> Callable[[int, int], None]:
        """A bar for work that is done elsewhere: it is told how much is done, and of how much."""
        task = self.progress.add_task(part, total=None, start=False, figures="")

        def count(done: int, total: int) -> None:
            self.progress.start_task(task)
            self.progress.update(task, completed=done, total=total)

        return count


@contextmanager
def progress(*, transient: bool = False) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=transient) as bars:
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


COLOURS = {"ok": "green", "note": "yellow", "warning": "bold red"}


def findings(found: Sequence[Finding]) -> None:
    """The table of `limbeck check`."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "", "figure", "what it means, what to do"):
        table.add_column(column)
    for each in found:
        do = f"\n[bold]{escape(each.do)}[/bold]" if each.do else ""
        level = f"[{COLOURS[each.level]}]{each.level}[/]"
        table.add_row(level, escape(each.check), escape(each.figure), escape(each.means) + do)
    Console().print(table)


def line(each: Finding) -> str:
    """A finding in a line."""
    do = f"; {each.do}" if each.do else ""
    said = escape(f"{each.check}: {each.figure}: {each.means}{do}")
    return f"[{COLOURS[each.level]}]{each.level}[/] {said}"


def comparison(found: Mapping[str, Any], folder: Path) -> None:
    """The table of `limbeck compare`: an arm per row, the best first."""
    console = Console()
    baseline = found["baseline"]
    table = Table(title=escape(found["title"]), title_style="bold", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    table.add_column("method")
    for label in ("accuracy", "difference", "NLL", "ECE", "agrees", "time", "memory"):
        table.add_column(label, justify="right", no_wrap=True)
    for row in found["table"]:
        table.add_row(
            str(row["rank"]),
            escape(row["arm"]),
            percent(row["accuracy"]),
            "baseline" if row["arm"] == baseline else percent(row["difference"], sign="+"),
            "-" if row["nll"] is None else f"{row['nll'][0]:.3f}",
            percent(row["ece"], bounds=False),
            percent(row["agreement"], bounds=False),
            "-" if row["time"] is None else f"{row['time']:.2f}",
            "-" if row["memory"] is None else f"{row['memory']:.2f}",
        )
    console.print(table)
    teacher = f" The teacher has {found['teacher']['accuracy']:.1%}." if found["teacher"] else ""
    console.print(
        f"Means over {len(found['seeds'])} seeds, +- half the 95 % interval; differences are paired by seed. Time and "
        f"memory of training are relative to kd's.{teacher}",
        highlight=False,
    )
    console.print(f"page: {folder / 'compare.html'}", highlight=False)


def tuned(found: Mapping[str, Any], folder: Path, most: int = 10) -> None:
    """The best trials of `limbeck tune`."""
    console = Console()
    table = Table(title="the best trials", title_style="bold")
    for label in ("trial", "accuracy", "epochs", "method"):
        table.add_column(label, justify="left" if label == "method" else "right")
    known = [each for each in found["trials"] if each["accuracy"] is not None and each["method"]]
    for each in sorted(known, key=lambda each: (each["state"] != "complete", -each["accuracy"]))[:most]:
        pruned = " [dim](pruned)[/dim]" if each["state"] == "pruned" else ""
        accuracy = f"{each['accuracy']:.1%}"
        table.add_row(str(each["number"]), accuracy, f"{each['epochs']}{pruned}", escape(each["method"]))
    console.print(table)
    console.print(
        f"{escape(found['method'])}\nhas {found['validation_accuracy']:.1%} of {found['validation_examples']} held-out "
        f"examples: the best of {len(found['trials'])} trials looks better than it is. Compare it on the test set:",
        highlight=False,
    )
    console.print(escape(found["next"]), highlight=False, soft_wrap=True)
    console.print(f"study: {folder / 'study.db'}", highlight=False)


def percent(figures: Sequence[float | None] | None, *, sign: str = "", bounds: bool = True) -> str:
    """A mean in percent, and half its interval if it has one."""
    if figures is None or figures[0] is None:
        return "-"
    mean, half = figures[0], None if figures[2] is None or not bounds else figures[2] - figures[0]
    return f"{100 * mean:{sign}.1f}" + ("" if half is None else f" [dim]± {100 * half:.1f}[/dim]")


def methods(*, family: str | None, signal: str | None, needs: str | None) -> None:
    """The catalogue, or a part of it: a line each."""
    console = Console()
    wide = console.width >= 100
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    if wide:
        table.add_column("learns from", max_width=console.width - 84)
    chosen: list[Entry] = []
    if family != "tools":
        chosen += registry.every(family=family, needs=needs, signal=signal)
    if family in (None, "tools") and not needs and not signal:
        chosen += registry.tools()
    for before, each in zip([None, *chosen], chosen, strict=False):
        if before is None or before.family != each.family:
            table.add_row(f"[dim]{each.family}[/dim]", f"[dim]{escape(about(each))}[/dim]")
        table.add_row(f"  [bold]{each.name}[/bold]", escape(each.summary), *((sources(each),) if wide else ()))
    console.print(table)
    console.print("\nIn brackets: where there are any. limbeck methods NAME shows one.", highlight=False)


def sources(method: Entry) -> str:
    """What it learns from, in few words."""
    if not isinstance(method, Method):
        return ""
    signals = method.facts.get("signals", sorted(method.needs))
    words = [f"({name})" if name == "labels" and name not in method.needs else name for name in signals]
    return ", ".join(words + sorted(method.needs & {"unlabelled", "strong"}.difference(words)))


def method(name: str) -> None:
    """The card of a method or tool."""
    console = Console()
    shown = card(registry.entry(name))
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


def exported(measured: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """What `limbeck export` wrote: a row per way to run the student."""
    forms = {key: FIGURES[key] for key in ("bytes", "accuracy", "latency_ms", "throughput")}
    forms |= {"accuracy": ("accuracy", lambda v: f"{v:.2%}"), "difference": ("logits differ by", lambda v: f"{v:.1g}")}
    table = Table()
    table.add_column("run by", no_wrap=True)
    for label, _ in forms.values():
        table.add_column(label, justify="right")
    for name, row in measured.items():
        table.add_row(name, *(form(row[key]) if key in row else "-" for key, (_, form) in forms.items()))
    console = Console()
    console.print(table)
    files = ", ".join(sorted(each.name for each in folder.iterdir()))
    console.print(f"latency of one example, throughput of 128, on the CPU\n{folder}: {files}", highlight=False)
