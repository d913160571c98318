"""The page of a comparison: methods, or students, against each other over several seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import plots
from limbeck.report.figures import MEASURES, TEACHER, Measure, count, lines, number, percent, points, significant
from limbeck.report.page import fill, made

Row = Mapping[str, Any]
Rows = Sequence[Row]

QUALITY = ["accuracy", "difference", "nll", "ece", "agreement", "time", "memory"]
COST = ["parameters", "flops", "bytes", "latency_ms", "throughput"]
SINGLE = {
    **{key: MEASURES[key] for key in ("accuracy", "nll", "ece", "agreement", "kl")},
    "epoch": Measure("Epoch", "", True, "{:.0f}".format),
    "seconds": Measure("Training", "s", True, significant),
    "memory": Measure("Memory", "MB", True, lambda value: significant(value / 1e6)),
}
SELECTED = {
    "last": "with the weights of the last epoch",
    "best-val": "with the weights of the epoch that was best on the validation split",
}


def render(found: Mapping[str, Any]) -> str:
    """The page for what compare.json holds; "title", "table", "methods", "baseline" and "seeds" must be there."""
    table, runs, teacher = found["table"], found.get("runs") or [], found.get("teacher") or {}
    baseline, students = found["baseline"], found.get("students") or {}
    return fill(
        "comparison.html.j2",
        **made(found),
        baseline=baseline,
        seeds=len(found["seeds"]),
        selected=SELECTED[found.get("select") or "last"],
        headline=_headline(table, baseline, teacher),
        quality=_table([(row["arm"], row) for row in table], teacher, QUALITY),
        cost=_table(_by_student(table, students), teacher, COST),
        dots=_dots(table, runs, baseline),
        sizes=_sizes(table, teacher, students, baseline),
        curves=_curves(found.get("curves") or {}, [row["arm"] for row in table], baseline),
        methods=[(row["arm"], found["methods"][row["arm"]], students.get(row["arm"])) for row in table],
        runs=_runs(runs),
    )


def slot_of(arm: str, baseline: str) -> str:
    """The baseline looks like the student alone on the other page, every other arm like the distilled student."""
    return "alone" if arm == baseline else "distilled"


def spread(values: Any) -> tuple[float | None, float | None, float | None]:
    """Mean, low and high; None for what there is not."""
    mean, low, high = map(number, values or (None, None, None))
    return mean, low, high


def verdict(low: float | None, high: float | None) -> str:
    """Where the interval of a difference leaves out zero: on which side."""
    return "above" if low is not None and low > 0 else "below" if high is not None and high < 0 else ""


def _headline(table: Rows, baseline: str, teacher: Row) -> list[tuple[str, str, str, str]]:
    """Slot, heading, accuracy and a remark: of the baseline and the best other arm, by rank, and of the teacher."""
    best = next((row["arm"] for row in table if row["arm"] != baseline), None)
    figures = []
    for row in (row for row in table if row["arm"] in (best, baseline)):
        mean, low, high = spread(row.get("difference"))
        remark = "first" if row["rank"] == 1 else f"rank {row['rank']} of {len(table)}"
        if row["arm"] == baseline:
            remark += ", the baseline"
        elif mean is not None:
            remark += f", {points(mean)} points against {baseline}"
            if low is not None and high is not None:
                remark += f" (95% interval {points(low)} to {points(high)}"
                remark += ")" if verdict(low, high) else ", so not clearly different)"
        figures.append((slot_of(row["arm"], baseline), row["arm"], _accuracy(row["accuracy"][0]), remark))
    if number(teacher.get("accuracy")) is not None:
        large, small = number(teacher.get("parameters")), number(table[0].get("parameters")) if table else None
        remark = f"{significant(large / small)} times the parameters" if large and small else ""
        figures.append(("teacher", TEACHER, _accuracy(teacher["accuracy"]), remark))
    return figures


def _accuracy(value: Any) -> str:
    return MEASURES["accuracy"].text(value) + "%"


def _by_student(table: Rows, students: Mapping[str, str]) -> list[tuple[str, Row]]:
    """What a student costs does not depend on how it was trained: of equal rows the first."""
    found: dict[Any, tuple[str, Row]] = {}
    for row in table:
        student = students.get(row["arm"], row["arm"])
        found.setdefault((student, *(row.get(key) for key in COST)), (student, row))
    return list(found.values())


def _table(rows: Sequence[tuple[str, Row]], teacher: Row, keys: Sequence[str]) -> dict[str, Any]:
    """The measures that anything is known of, and a row of cells for each of `rows` and, below, for the teacher."""
    everyone = [*rows, *([(TEACHER, {"arm": None, "rank": None, **teacher})] if teacher else [])]
    known = [key for key in keys if any(row.get(key) is not None for _, row in everyone)]
    return {
        "columns": [MEASURES[key] for key in known],
        "rows": [
            (name, row["arm"], row["rank"], [_cell(key, row.get(key)) for key in known]) for name, row in everyone
        ],
    }


def _cell(key: str, value: Any) -> dict[str, Any]:
    """A figure as it stands in compare.json and as it is shown, and so the ends of its interval, if it has one."""
    mean, *ends = value if isinstance(value, list | tuple) else [value]
    show = MEASURES[key].text
    low, high = map(number, ends or (None, None))
    bounds = [] if low is None or high is None else [("low", low), ("high", high)]
    return {
        "figure": key,
        "value": json.dumps(mean),
        "text": show(mean),
        "bounds": [(end, json.dumps(bound), show(bound)) for end, bound in bounds],
        "verdict": verdict(low, high) if key == "difference" else "",
    }


def _dots(table: Rows, runs: Rows, baseline: str) -> list[tuple[str, str]]:
    """Captions and drawings: the accuracies, and the differences to the baseline under the same seeds."""
    single = {(run["arm"], run["seed"]): y for run in runs if (y := number(run.get("accuracy"))) is not None}
    gains = {(arm, seed): y - single[baseline, seed] for (arm, seed), y in single.items() if (baseline, seed) in single}
    drawings = []
    for key, caption, seeds in (
        ("accuracy", "Accuracy, %", single),
        ("difference", f"Difference to {baseline}, points", gains),
    ):
        rows = []
        for row in table:
            mean, low, high = spread(row.get(key))
            if key == "difference" and row["arm"] == baseline and gains:
                mean = 0.0  # so that the rows of both drawings stand side by side
            if mean is not None:
                own = [y for (arm, _), y in seeds.items() if arm == row["arm"]]
                filled = key == "accuracy" or verdict(low, high) != ""
                rows.append(plots.Dot(row["arm"], mean, low, high, own, slot_of(row["arm"], baseline), filled))
        if rows:
            label = f"{caption}: " + ", ".join(f"{row.name} {MEASURES[key].show(row.mean)}" for row in rows)
            drawings.append((caption, plots.dots(f"dots-{key}", label, rows, zero=key == "difference")))
    return drawings


def _sizes(table: Rows, teacher: Row, students: Mapping[str, str], baseline: str) -> list[tuple[str, str]]:
    """Captions and drawings: accuracy against size and against latency, where there is more than one model."""
    drawings = []
    for key, caption, tick in (
        ("parameters", "Accuracy against parameters", lambda value: count(value, "{:g}".format)),
        ("latency_ms", "Accuracy against latency in ms", "{:g}".format),
    ):
        models: list[tuple[str, Any, Any, str]] = [
            (students.get(row["arm"], row["arm"]), row.get(key), row["accuracy"], slot_of(row["arm"], baseline))
            for row in table
        ]
        models += [(TEACHER, teacher.get(key), [teacher.get("accuracy"), None, None], "teacher")]
        spots = [
            plots.Spot(name, x, mean, low, high, slot)
            for name, x, (mean, low, high), slot in ((n, number(x), spread(a), s) for n, x, a, s in models)
            if x and mean is not None
        ]
        if len({spot.name for spot in spots}) > 1:
            label = f"{caption}: " + ", ".join(
                f"{s.name} {percent(s.mean)}% at {MEASURES[key].show(s.x)}" for s in spots
            )
            drawings.append((caption, plots.sizes(f"sizes-{key}", label, spots, tick)))
    return drawings


def _curves(curves: Mapping[str, Rows], arms: Sequence[str], baseline: str) -> dict[str, list[tuple[str, str]]]:
    """Captions and drawings: the accuracy of each arm beside the baseline's, and each term of each arm's loss."""
    runs = {arm: lines(curves.get(arm) or []) for arm in arms}
    groups: dict[str, list[tuple[str, str]]] = {"accuracy": [], "losses": []}
    scale = [run["Accuracy"] for run in runs.values() if "Accuracy" in run]
    for arm, run in runs.items():
        for caption, line in run.items():
            group = "accuracy" if caption == "Accuracy" else "losses"
            series = [(slot_of(arm, baseline), line)]
            # Losses of different methods are not comparable, so they stand alone.
            if group == "accuracy" and arm != baseline and caption in runs.get(baseline, {}):
                series.append(("alone", runs[baseline][caption]))
            title = arm if group == "accuracy" else f"{arm}: {caption.removeprefix('Loss term ').lower()}"
            label = f"{caption} of {arm} against epoch: ends at {line[-1][1]:.4g}"
            key = f"{group}{len(groups[group])}"
            groups[group].append((title, plots.curves(key, label, series, percent=group == "accuracy", scale=scale)))
    return groups


def _runs(runs: Rows) -> dict[str, Any]:
    """Every single run."""
    keys = [key for key in SINGLE if any(number(run.get(key)) is not None for run in runs)]
    return {
        "columns": [SINGLE[key] for key in keys],
        "rows": [(run["arm"], run["seed"], [SINGLE[key].text(run.get(key)) for key in keys]) for run in runs],
    }
