"""The report: one self-contained HTML page that tells what a distillation gained and how it was made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from limbeck.report import plots

__all__ = ["render", "write"]

DASH = "\N{EN DASH}"  # stands for whatever was not measured
TEACHER, ALONE, DISTILLED = "teacher", "student alone", "student distilled"

Models = Mapping[str, Mapping[str, Any]]
Rows = Sequence[Mapping[str, Any]]


def write(path: Path, result: Mapping[str, Any]) -> Path:
    """Write the page for `result` to `path`, whole or not at all, and return the path."""
    page = render(result).encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(page)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(result: Mapping[str, Any]) -> str:
    """The page for `result`; only "title" and "models" must be there, and equal results give equal pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["slot"] = plots.slot
    models = {name: values or {} for name, values in result["models"].items()}
    curves, level = result.get("curves") or {}, _number(models.get(TEACHER, {}).get("accuracy"))
    drawings = _curves(curves, level)
    return environment.get_template("page.html.j2").render(
        title=result["title"],
        summary=result.get("summary"),
        method=result.get("method"),
        command=result.get("command"),
        models=list(models),
        headline=_headline(models),
        comparison=_comparison(models),
        legend=list(dict.fromkeys([*curves, *([TEACHER] if level is not None and "Accuracy" in drawings else [])])),
        curves=drawings,
        reliability=_reliability(result.get("reliability") or {}, models),
        classes=_classes(result.get("classes") or {}),
        examples=None if result.get("examples") is None else _examples(result["examples"]),
        details=[
            (caption, [(name, _plain(value)) for name, value in (result.get(key) or {}).items()])
            for key, caption in (("settings", "Settings"), ("environment", "Environment"))
        ],
    )


# ---- numbers


def _number(value: Any) -> float | None:
    """`value` where it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _points(change: float) -> str:
    """A change of accuracy in percentage points, with its sign; what rounds to nothing has none."""
    text = f"{100 * change:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _significant(value: float) -> str:
    """Three significant digits, but never fewer than the whole number has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _count(value: float) -> str:
    """A count in thousands (k), millions (M) or billions (B)."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return _significant(value / size) + suffix
    return f"{value:.0f}"


def _plain(value: Any) -> str:
    """A setting as text: strings as they are, everything else as JSON."""
    if value is None:
        return DASH
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- the parts of the page


@dataclass(frozen=True)
class _Metric:
    """A row of the comparison. Values within `noise` of the best, as a share of it, are as good as the best."""

    key: str
    label: str
    unit: str
    lower_is_better: bool
    show: Callable[[float], str]
    noise: float = 0.0


_GROUPS = {
    "Quality": [
        _Metric("accuracy", "Accuracy", "%", False, _percent),
        _Metric("nll", "Negative log-likelihood", "nats", True, lambda value: f"{value:.4f}"),
        _Metric("ece", "Calibration error (ECE)", "%", True, _percent),
    ],
    "Likeness to the teacher": [
        _Metric("agreement", "Agreement", "%", False, _percent),
        _Metric("kl", "KL divergence", "nats", True, lambda value: f"{value:.4f}"),
    ],
    "Cost": [
        _Metric("parameters", "Parameters", "count", True, _count),
        _Metric("flops", "Compute per example", "MFLOPs", True, lambda value: _significant(value / 1e6)),
        _Metric("bytes", "Size", "kB", True, lambda value: _significant(value / 1e3)),
        _Metric("latency_ms", "Latency", "ms", True, _significant, noise=0.1),
        _Metric("throughput", "Throughput", "examples/s", False, _significant, noise=0.1),
    ],
}


def _headline(models: Models) -> list[tuple[str, str, str]]:
    """Model, accuracy and a remark for the three main models, as far as there are such."""
    values = {name: _number(models.get(name, {}).get("accuracy")) for name in (ALONE, DISTILLED, TEACHER)}
    alone, distilled, teacher = values.values()
    remarks = {ALONE: "trained without the teacher", DISTILLED: "", TEACHER: ""}
    if alone is not None and distilled is not None:
        remarks[DISTILLED] = f"{_points(distilled - alone)} points"
        if teacher is not None and alone < distilled < teacher:
            remarks[DISTILLED] += f", {(distilled - alone) / (teacher - alone):.0%} of the gap closed"
    large, small = (_number(models.get(name, {}).get("parameters")) for name in (TEACHER, DISTILLED))
    if large and small:
        remarks[TEACHER] = f"{_significant(large / small)} times the parameters"
    return [
        (name, DASH if value is None else _percent(value) + "%", remarks[name])
        for name, value in values.items()
        if name in models
    ]


def _comparison(models: Models) -> list[tuple[str, list[tuple[_Metric, list[tuple[str, bool]]]]]]:
    """Groups of rows: a metric, and for each model the value as text and whether it is the best student's."""
    groups = []
    for title, metrics in _GROUPS.items():
        rows = []
        for metric in metrics:
            values = {name: _number(model.get(metric.key)) for name, model in models.items()}
            if any(value is not None for value in values.values()):
                best = _best(metric, values)
                rows.append((metric, [(DASH if v is None else metric.show(v), n in best) for n, v in values.items()]))
        if rows:
            groups.append((title, rows))
    return groups


def _best(metric: _Metric, values: Mapping[str, float | None]) -> set[str]:
    """The students with the best value; none where all are equal as printed, or within the noise."""
    students = {name: value for name, value in values.items() if value is not None and name != TEACHER}
    if not students:
        return set()
    top = (min if metric.lower_is_better else max)(students.values())
    best = {
        name
        for name, value in students.items()
        if metric.show(value) == metric.show(top) or abs(value - top) <= metric.noise * abs(top)
    }
    return best if len(best) < len(students) else set()


def _curves(curves: Mapping[str, Rows], teacher: float | None) -> dict[str, str]:
    """Drawings by caption: the accuracy, then each loss term (or the loss itself, where no terms are known)."""

    def quantities(row: Mapping[str, Any]) -> dict[str, Any]:
        terms = {f"Loss term {term}": value for term, value in (row.get("terms") or {}).items()}
        return {"Accuracy": row.get("accuracy")} | (terms or {"Loss": row.get("loss")})

    runs = {name: [(float(row["epoch"]), quantities(row)) for row in rows] for name, rows in curves.items()}
    captions = dict.fromkeys(caption for run in runs.values() for _, values in run for caption in values)
    drawings = {}
    for index, caption in enumerate(captions):
        found = {
            name: [(epoch, y) for epoch, values in run if (y := _number(values.get(caption))) is not None]
            for name, run in runs.items()
        }
        if lines := {name: points for name, points in found.items() if points}:
            ends = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in lines.items())
            label = f"{caption} against epoch: {ends}"
            accuracy = caption == "Accuracy"
            level = teacher if accuracy else None
            drawings[caption] = plots.curves(f"curve{index}", label, lines, level, percent=accuracy)
    return drawings


def _reliability(reliability: Mapping[str, Sequence[Any]], models: Models) -> list[tuple[str, str, str]]:
    """Model, calibration error and drawing, for every model with a bin that is not empty."""
    drawings = []
    for index, (name, rows) in enumerate(reliability.items()):
        bins = [(float(c), float(a), float(s)) for c, a, s in rows if None not in map(_number, (c, a, s)) and s > 0]
        if bins:
            error = _number(models.get(name, {}).get("ece"))
            drawing = plots.reliability(f"bins{index}", f"Accuracy against confidence of {name}", name, bins)
            drawings.append((name, DASH if error is None else f"{_percent(error)}%", drawing))
    return drawings


def _classes(classes: Mapping[str, Sequence[Any]], most: int = 20) -> dict[str, Any]:
    """Accuracy per class, the largest gains first and the largest losses last; of many classes only those."""
    rows = []
    for name, *pair in zip_longest(classes.get("names") or [], classes.get(ALONE) or [], classes.get(DISTILLED) or []):
        alone, distilled = map(_number, pair)
        if alone is not None and distilled is not None:
            rows.append((distilled - alone, str(name), _percent(alone), _percent(distilled)))
    rows.sort(key=lambda row: -row[0])
    shown = rows if len(rows) <= most else rows[: most // 2] + rows[-most // 2 :]
    widest = max((abs(row[0]) for row in shown), default=0.0) or 1.0
    return {
        "total": len(rows),
        "rows": [(*texts, _points(change), round(50 * change / widest, 1)) for change, *texts in shown],
    }


def _examples(examples: Rows) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Heading, explanation and members of each group of examples."""
    words = {"label": "truth", "alone": "alone", "distilled": "distilled", "teacher": "teacher"}
    meaning = {
        "gained": "Right when distilled, wrong when trained alone",
        "lost": "Right when trained alone, wrong when distilled",
    }
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in meaning}
    for example in examples:
        answers = [
            (word, str(example[key]), example[key] != example.get("label"))
            for key, word in words.items()
            if example.get(key) is not None
        ]
        image = None if example.get("image") is None else plots.png(example["image"])
        member = {"image": image, "text": example.get("text"), "answers": answers}
        groups.setdefault(str(example.get("group", "other")), []).append(member)
    return [(name, meaning.get(name, "Other examples"), members) for name, members in groups.items()]
