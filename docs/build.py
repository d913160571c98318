"""Write README.md, docs/language.md, docs/methods/*.md and src/limbeck/methods/facts.json from their sources: the
methods, docs/src, the measurements in bench/results and the cases in tests/parity.

python docs/build.py            a test fails while they are not up to date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from limbeck import registry
from limbeck.cards import NOTATION, about, card
from limbeck.experiment import write_whole
from limbeck.registry import Method, Tool

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = DOCS / "methods"


def pages() -> dict[Path, str]:
    """Path -> text of every generated file."""
    from docs import language_page
    from docs.facts import facts

    found = facts()
    families = {name: list(members) for name, members in groupby(registry.catalogue(), key=lambda each: each.family)}
    return {
        ROOT / "README.md": readme(),
        ROOT / "src/limbeck/methods/facts.json": json.dumps(found, indent=1) + "\n",
        DOCS / "language.md": language_page.page(load("language"), load("linear")),
        PAGES / "README.md": index(families),
        **{PAGES / f"{name}.md": family(name, members, found) for name, members in families.items()},
    }


# ---- README ---------------------------------------------------------------------------------------------------------


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
        f"| {link(m, 'docs/methods/')} | [{m.family}](docs/methods/{m.family}.md) | {cell(m.summary)} "
        f"| {', '.join(sorted(m.needs)) if isinstance(m, Method) else ''} |"
        for m in registry.catalogue()
    ]
    return "\n".join(["| method | family | what it does | needs |", "|---|---|---|---|", *rows])


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def link(method: Method | Tool, folder: str = "") -> str:
    return f"[`{method.name}`]({folder}{method.family}.md#{method.name})"


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
    linear = load("linear")
    if linear:
        parts.append(linear_sentence(linear))
    step = load("step")
    if step:
        parts.append(step_table(step))
    return "\n\n".join(parts)


def linear_sentence(linear: dict[str, Any]) -> str:
    large = max(row["shape"] for row in linear["rows"])
    found = {
        row["dtype"]: f"{row['time']:.2f} of the time and {row['memory']:.3f} of the memory in {row['dtype']}"
        for row in linear["rows"]
        if row["way"] == "tiles" and row["shape"] == large
    }
    return (
        f"- KL between two language models' heads, {large[0]:,} tokens of a vocabulary of {large[2]:,}, against making "
        f"all logits: {', '.join(found.values())} ([`linear.json`](bench/results/linear.json))."
    )


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


# ---- methods --------------------------------------------------------------------------------------------------------


def index(families: Mapping[str, list[Method | Tool]]) -> str:
    rows = [
        f"| [{name}]({name}.md) | {about(members[0])} | {', '.join(map(link, members))} |"
        for name, members in families.items()
    ]
    template = (DOCS / "methods.template.md").read_text()
    return template % {"families": "\n".join(rows), "notation": NOTATION}


def family(name: str, members: list[Method | Tool], found: Mapping[str, Any]) -> str:
    contents = ", ".join(map(link, members))
    lines = [f"# {name}", "", about(members[0]), "", f"{contents}. [All families, and how to read a card](README.md)."]
    for m in members:
        shown = card(m, found[m.name])
        equation = f"```text\n{shown.equation}\n```" if shown.equation else ""
        facts = [f"- **{label}**: {f'`{text}`' if label in CODE else text}" for label, text in shown.rows]
        parts = [f"## {m.name}", f"`{shown.call}`", shown.does, equation, shown.notes, "\n".join(facts)]
        lines += [f"\n{part}" for part in parts if part]
    return "\n".join(lines) + "\n"


CODE = ("example", "is")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # docs.facts and tests
    torch.set_num_threads(1)  # the fastest on networks this small
    PAGES.mkdir(exist_ok=True)
    written = pages()
    for path, text in written.items():
        write_whole(path, text)
        print(path.relative_to(ROOT))
    for old in set(PAGES.glob("*.md")) - written.keys():
        old.unlink()
