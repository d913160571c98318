"""A card of the catalogue: what it does, its equation, its settings, its parts and what was found by running it.

The terminal and the docs show the same card; nothing on it is typed by hand but the docstring.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.registry import NEEDS, SIGNALS, Entry, Method, Tool

#: How to read an equation.
NOTATION = (
    "loss: of one example; the mean is taken. y: its label. z, t: logits of student and teacher; q, p: their softmax, "
    "q_tau, p_tau: that of logits / tau. CE(r, q) = -sum_c r_c log q_c, KL(p || q) = CE(p, q) - CE(p, p), "
    "H(q) = CE(q, q)."
)


@dataclass(frozen=True)
class Card:
    """does, equation, notes: the paragraphs of the docstring. rows: (label, text) of all else."""

    name: str
    family: str
    call: str
    does: str
    equation: str
    notes: str
    rows: tuple[tuple[str, str], ...]


def card(each: Method | Tool, facts: Mapping[str, Any] | None = None) -> Card:
    """facts: found by running it; None: those of the package."""
    facts = each.facts if facts is None else facts
    paragraphs = (inspect.getdoc(each.build) or "").split("\n\n")
    if isinstance(each, Method):
        del paragraphs[0]  # the summary
    equation = paragraphs.pop(0) if paragraphs and paragraphs[0].startswith("loss") else ""
    rows = made(each, facts) if isinstance(each, Method) else {"is": each.path}
    rows |= {
        "parity": "; ".join(map(parity, facts.get("parity", ()))),
        "effect": effect(facts["effect"]) if "effect" in facts else "",
        "cost": cost(facts["cost"]) if "cost" in facts else "",
        "source": each.paper.strip("-"),
    }
    return Card(
        name=each.name,
        family=each.family,
        call=f"{each.build.__name__}({', '.join(map(setting, each.signature.parameters.values()))})",
        does=each.summary,
        equation=equation,
        notes="\n\n".join(re.sub(r"\n\s*", " ", paragraph) for paragraph in paragraphs),
        rows=tuple((label, text) for label, text in rows.items() if text),
    )


def made(method: Method, facts: Mapping[str, Any]) -> dict[str, str]:
    """What goes into a method, and what comes out."""
    objective = method(**method.example)
    example = ", ".join(f"{name}={value!r}" for name, value in method.example.items())
    return {
        "needs": listed(method.needs, NEEDS) or "nothing",
        "learns from": listed(facts.get("signals", ()), SIGNALS),
        "example": f"{method.name}({example})" if example else "",
        "is": repr(objective),
        "couples": "the examples of a batch: micro-batches and ranks change the result" * objective.couples_examples,
    }


def setting(each: inspect.Parameter) -> str:
    """As it is written, `tau: float = 4.0`; annotations may be texts."""
    written = each.annotation if isinstance(each.annotation, str) else ""
    return str(each).replace(repr(written), written)


def about(each: Entry) -> str:
    """What its family is: the first paragraph of the file that it is in."""
    said = inspect.getdoc(sys.modules[each.home]) or ""
    return said.split("\n\n")[0].replace("\n", " ")


def listed(names: Iterable[str], meaning: Mapping[str, str]) -> str:
    """Their meanings, each with the name to type after it unless it holds that already."""
    return ", ".join(text if name in text else f"{text} ({name})" for name, text in meaning.items() if name in names)


def parity(case: Mapping[str, Any]) -> str:
    with_what = case["with"] or "the paper's equations, as we know of no code by the authors"
    return f"agrees to {case['tolerance']} with {with_what} (case {case['case']})"


def effect(found: Mapping[str, Any]) -> str:
    """The difference to the baseline, and what is to be thought of the claim."""
    mean, low, high = (f"{number:+.3g}" for number in found["difference"])
    figure = "accuracy in %" if found["figure"] == "accuracy" else found["figure"]
    better = "" if found["better"] == "more" else ", less is better"
    return (
        f"{figure} {mean} ({low} to {high}) against {found['baseline']}{better}; "
        f"mean and 95 % interval of {found['seeds']} seeds. Claim: {found['claim']}: {VERDICTS[found['reproduced']]}"
    )


VERDICTS = {"yes": "reproduced", "no": "not reproduced, the baseline is better", "undecided": "undecided"}


def cost(found: Mapping[str, float]) -> str:
    return f"{found['time']:.2g} x the time and {found['memory']:.2g} x the memory of a step of kd"
