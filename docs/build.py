"""Write README.md and docs/methods.md from their sources: the registry, docs/src and the measurements in bench.

python docs/build.py            a test fails while they are not up to date
"""

from __future__ import annotations

import inspect
import json
from itertools import groupby
from pathlib import Path
from typing import Any

from limbeck import registry

DOCS = Path(__file__).parent
ROOT = DOCS.parent


def pages() -> dict[Path, str]:
    """Path -> text of every generated page."""
    return {ROOT / "README.md": readme(), DOCS / "methods.md": methods()}


def readme() -> str:
    demo = json.loads((ROOT / "bench/demo.json").read_text())["summary"]
    mean, low, high = (100 * number for number in demo["gain"])
    return (DOCS / "README.template.md").read_text() % {
        "alone": percent(demo["alone"][0]),
        "distilled": percent(demo["distilled"][0]),
        "gain": f"{mean:.1f}",
        "low": f"{low:.1f}",
        "high": f"{high:.1f}",
        "ten_lines": (DOCS / "src/ten_lines.py").read_text(),
        "compose": (DOCS / "src/compose.py").read_text(),
        "catalogue": catalogue(),
        "measured": measured(),
    }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def catalogue() -> str:
    rows = [
        f"| `{m.name}` | {m.family.strip('_')} | {m.summary} | {', '.join(sorted(m.needs))} |" for m in registry.every()
    ]
    return "\n".join(["| method | family | what it does | needs |", "|---|---|---|---|", *rows])


def measured() -> str:
    """What bench/ found, as sentences and one table."""
    parts = []
    fashion = load("fashion")
    if fashion:
        gain = [100 * number for number in fashion["summary"]["accuracy"]["gain"]]
        alone, distilled = (percent(fashion["summary"]["accuracy"][arm][0]) for arm in ("alone", "distilled"))
        s = fashion["settings"]
        interval = f"95 % interval {gain[1]:+.2f} to {gain[2]:+.2f}, five seeds, one teacher"
        parts.append(
            f"- `{s['student']}` from `{s['teacher']}` by `kd` on {s['examples']:,} Fashion-MNIST images with "
            f"{s['labels']} labels per class: {alone} alone, {distilled} distilled; {gain[0]:+.2f} points ({interval}; "
            f"[`fashion.json`](bench/results/fashion.json))."
        )
    step = load("step")
    if step:
        parts.append(step_table(step))
    return "\n\n".join(parts)


def step_table(step: dict[str, Any]) -> str:
    cpu = {(row["pair"], row["of"], row["over"]): row["cpu"] for row in step["ratios"]}
    lines = [
        "- CPU time of one step over a bare hand-written loop, interleaved "
        "([`step.json`](bench/results/step.json), `python bench/step.py`):",
        "",
        "| step | over | mid pair | small pair |",
        "|---|---|---|---|",
    ]
    for label, under, of, over in STEPS:
        cells = (f"{cpu[pair, of, over]:.3f}" for pair in ("mid", "small"))
        lines.append(f"| {label} | {under} | {' | '.join(cells)} |")
    return "\n".join(lines)


STEPS = [
    ("supervised", "bare supervised", "supervised/limbeck", "supervised/bare"),
    ("kd", "bare kd", "kd/limbeck", "kd/bare"),
    ("crd, 1,024 negatives of 60,000", "kd", "crd/60k", "kd/limbeck"),
]


def load(name: str) -> dict[str, Any] | None:
    path = ROOT / "bench/results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def methods() -> str:
    """A card per method, by family."""
    lines = ["# Methods", "", "Written by `docs/build.py` from the code and from `bench/results`."]
    for family, members in groupby(registry.every(), key=lambda m: m.family):
        lines += ["", f"## {family}"]
        for m in members:
            settings = ", ".join(str(each) for each in m.signature.parameters.values())
            made = m(**m.example)
            lines += [
                "",
                f"### {m.name}",
                "",
                f"`{m.name}({settings})`",
                "",
                inspect.getdoc(m.build) or "",
                "",
                f"- source: {m.paper}",
                f"- needs: {', '.join(sorted(m.needs)) or 'nothing'}",
                f"- is: `{made!r}`",
            ]
            if made.couples_examples:
                lines.append("- couples the examples of a batch: micro-batches and ranks change the result")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
