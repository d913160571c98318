"""Names, numbers and measures, as the pages write them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "student distilled"
DASH = "\N{EN DASH}"  # stands for whatever was not measured
MINUS = "\N{MINUS SIGN}"


def slot(model: str) -> str:
    """Which colour and line style a model has throughout the page."""
    return {TEACHER: "teacher", ALONE: "alone", DISTILLED: "distilled"}.get(model, "other")


def number(value: Any) -> float | None:
    """`value` where it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def percent(value: float) -> str:
    return f"{100 * value:.2f}".replace("-", MINUS)


def points(change: float) -> str:
    """A change of a share in percentage points, with its sign; what rounds to nothing has none."""
    text = f"{100 * change:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def nats(value: float) -> str:
    return f"{value:.4f}"


def significant(value: float) -> str:
    """Three significant digits, but never fewer than the whole number has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def count(value: float, show: Callable[[float], str] = significant) -> str:
    """A count in thousands (k), millions (M) or billions (B)."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return show(value / size) + suffix
    return f"{value:.0f}"


def plain(value: Any) -> str:
    """A setting as text: strings as they are, everything else as JSON."""
    if value is None:
        return DASH
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """A run's learning curves, (epoch, value): the accuracy, each term of the loss, or the loss where none is known."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        terms = {f"Loss term {term}": value for term, value in (row.get("terms") or {}).items()}
        for caption, value in {"Accuracy": row.get("accuracy"), **(terms or {"Loss": row.get("loss")})}.items():
            if (finite := number(value)) is not None:
                found.setdefault(caption, []).append((float(row["epoch"]), finite))
    return found


@dataclass(frozen=True)
class Measure:
    """What a table shows. Values within `noise` of the best, as a share of it, are as good as the best."""

    label: str
    unit: str
    lower_is_better: bool
    show: Callable[[float], str]
    noise: float = 0.0

    def text(self, value: Any) -> str:
        finite = number(value)
        return DASH if finite is None else self.show(finite)


MEASURES = {
    "accuracy": Measure("Accuracy", "%", False, percent),
    "difference": Measure("Difference", "points", False, points),
    "nll": Measure("Negative log-likelihood", "nats", True, nats),
    "ece": Measure("Calibration error (ECE)", "%", True, percent),
    "agreement": Measure("Agreement", "%", False, percent),
    "kl": Measure("KL divergence", "nats", True, nats),
    "parameters": Measure("Parameters", "count", True, count),
    "flops": Measure("Compute per example", "MFLOPs", True, lambda value: significant(value / 1e6)),
    "bytes": Measure("Size", "kB", True, lambda value: significant(value / 1e3)),
    "latency_ms": Measure("Latency", "ms", True, significant, noise=0.1),
    "throughput": Measure("Throughput", "examples/s", False, significant, noise=0.1),
    "time": Measure("Training time", "× kd", True, lambda value: f"{value:.2f}"),  # noqa: RUF001
    "memory": Measure("Training memory", "× kd", True, lambda value: f"{value:.2f}"),  # noqa: RUF001
}
