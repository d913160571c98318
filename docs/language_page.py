"""docs/language.md, of its template and of bench/results/language.json and linear.json."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

DOCS = Path(__file__).parent
MISSING = "Not measured yet."


def page(language: dict[str, Any] | None, linear: dict[str, Any] | None) -> str:
    return (DOCS / "language.template.md").read_text() % {
        "code": (DOCS / "src/language.py").read_text(),
        "machine": f"{linear['machine']}, {linear['threads']} thread" if linear else "no machine yet",
        "linear": tiles(linear) if linear else MISSING,
        "table": ways(language) if language else MISSING,
        "settings": settings(language) if language else "",
        "seeds": " or ".join(map(str, sorted({len(row["seeds"]) for row in language["rows"]}))) if language else 0,
        "sampled": sampled(language) if language else "",
        "trainer": trainer(),
    }


def tiles(linear: dict[str, Any]) -> str:
    lines = ["| rows x width x vocabulary | type | way | time | memory |", "|---|---|---|---|---|"]
    for row in linear["rows"]:
        shape = " x ".join(f"{n:,}" for n in row["shape"])
        lines.append(f"| {shape} | {row['dtype']} | {row['way']} | {row['time']:.2f} | {row['memory']:.3f} |")
    return "\n".join(lines)


def settings(language: dict[str, Any]) -> str:
    s, sizes = language["settings"], language["parameters"]
    return (
        f"On the standard library's source, held out by file: a teacher of {sizes['teacher'] / 1e6:.1f} million "
        f"parameters ({language['teacher']['bits_per_byte']:.3f} bits per byte), students of "
        f"{sizes['student'] / 1e6:.2f} million that have learnt from the labels for {s['steps before']} steps, then "
        f"{s['steps']} steps of each way, on {s['batch']} x {s['length']} tokens of a vocabulary of {s['tokens']:,}."
    )


def ways(language: dict[str, Any]) -> str:
    lines = ["| way | bits per byte | gain | agreement | distinct-2 | seconds |", "|---|---|---|---|---|---|"]
    for row in language["rows"]:
        gain = row["gain"]
        agreement = f"{100 * fmean(row['agreement']):.1f} %" if "agreement" in row else ""
        cells = [
            f"{row['mean'][0]:.3f}",
            "" if gain is None else f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})",
            agreement,
            f"{fmean(row['distinct_2']):.2f}",
            f"{fmean(row['seconds']):.0f}",
        ]
        lines.append(f"| {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sampled(language: dict[str, Any]) -> str:
    found = []
    for row in language["rows"]:
        if "over the running teacher" in row:
            gap, low, high = row["over the running teacher"]
            samples = row["way"].split()[-2]
            found.append(f"{gap:+.4f} bits per byte with {samples} samples ({low:+.4f} to {high:+.4f})")
    return f"Records of sampled tokens instead of the running teacher, forward KL, five seeds: {'; '.join(found)}."


def trainer() -> str:
    return (
        "`limbeck.trainer.DistillationTrainer` is transformers' `Trainer` with any of our objectives; see "
        "[`examples/trainer.py`](../examples/trainer.py)."
    )
