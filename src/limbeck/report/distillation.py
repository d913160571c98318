"""The page of a distillation: teacher, student alone and student distilled side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import plots
from limbeck.report.figures import (
    ALONE,
    DASH,
    DISTILLED,
    MEASURES,
    TEACHER,
    Measure,
    lines,
    number,
    percent,
    points,
    significant,
    slot,
)
from limbeck.report.page import fill, made

Models = Mapping[str, Mapping[str, Any]]
Rows = Sequence[Mapping[str, Any]]

GROUPS = {
    "Quality": ["accuracy", "nll", "ece"],
    "Likeness to the teacher": ["agreement", "kl"],
    "Cost": ["parameters", "flops", "bytes", "latency_ms", "throughput"],
}


def render(result: Mapping[str, Any]) -> str:
    """The page for `result`; only "title" and "models" must be there, and equal results give equal pages."""
    models = {name: values or {} for name, values in result["models"].items()}
    curves, level = result.get("curves") or {}, number(models.get(TEACHER, {}).get("accuracy"))
    drawings = _curves(curves, level)
    classes = result.get("classes") or {}
    return fill(
        "distillation.html.j2",
        **made(result),
        models=list(models),
        headline=_headline(models),
        comparison=_comparison(models),
        checked=bool(result.get("check")),
        warnings=[each for each in result.get("check") or [] if each["level"] == "warning"],
        legend=list(dict.fromkeys([*curves, *([TEACHER] if level is not None and "Accuracy" in drawings else [])])),
        curves=drawings,
        reliability=_reliability(result.get("reliability") or {}, models),
        classes=_classes(classes),
        confusion=_confusion(result.get("confusion") or {}, classes.get("names") or []),
        examples=_examples(result.get("examples") or {}),
    )


def _headline(models: Models) -> list[tuple[str, str, str, str]]:
    """Slot, model, accuracy and a remark for the three main models, as far as there are such."""
    values = {name: number(models.get(name, {}).get("accuracy")) for name in (ALONE, DISTILLED, TEACHER)}
    alone, distilled, teacher = values.values()
    remarks = {ALONE: "trained without the teacher", DISTILLED: "", TEACHER: ""}
    if alone is not None and distilled is not None:
        remarks[DISTILLED] = f"{points(distilled - alone)} points"
        if teacher is not None and alone < distilled < teacher:
            remarks[DISTILLED] += f", {(distilled - alone) / (teacher - alone):.0%} of the gap closed"
    large, small = (number(models.get(name, {}).get("parameters")) for name in (TEACHER, DISTILLED))
    if large and small:
        remarks[TEACHER] = f"{significant(large / small)} times the parameters"
    return [
        (slot(name), name.capitalize(), DASH if value is None else percent(value) + "%", remarks[name])
        for name, value in values.items()
        if name in models
    ]


def _comparison(models: Models) -> list[tuple[str, list[tuple[Measure, list[tuple[str, bool]]]]]]:
    """Groups of rows: a measure, and for each model the value as text and whether it is the best student's."""
    alike = len({model.get("flops") for name, model in models.items() if name != TEACHER}) < 2
    groups = []
    for title, keys in GROUPS.items():
        rows = []
        for key in keys:
            measure = MEASURES[key]
            values = {name: number(model.get(key)) for name, model in models.items()}
            if any(value is not None for value in values.values()):
                # Students of one kind are equally fast: what their clocks say apart is the machine's doing.
                best = set() if measure.noise and alike else _best(measure, values)
                rows.append((measure, [(measure.text(value), name in best) for name, value in values.items()]))
        if rows:
            groups.append((title, rows))
    return groups


def _best(measure: Measure, values: Mapping[str, float | None]) -> set[str]:
    """The students with the best value; none where all are equal as printed, or within the noise."""
    students = {name: value for name, value in values.items() if value is not None and name != TEACHER}
    if not students:
        return set()
    top = (min if measure.lower_is_better else max)(students.values())
    best = {
        name
        for name, value in students.items()
        if measure.show(value) == measure.show(top) or abs(value - top) <= measure.noise * abs(top)
    }
    return best if len(best) < len(students) else set()


def _curves(curves: Mapping[str, Rows], teacher: float | None) -> dict[str, str]:
    """Drawings by caption: the accuracy, then each loss term (or the loss itself, where no terms are known)."""
    runs = {name: lines(rows) for name, rows in curves.items()}
    drawings = {}
    for index, caption in enumerate(dict.fromkeys(caption for run in runs.values() for caption in run)):
        found = {name: run[caption] for name, run in runs.items() if caption in run}
        ends = ", ".join(f"{name} ends at {line[-1][1]:.4g}" for name, line in found.items())
        accuracy = caption == "Accuracy"
        drawings[caption] = plots.curves(
            f"curve{index}",
            f"{caption} against epoch: {ends}",
            [(slot(name), line) for name, line in found.items()],
            teacher if accuracy else None,
            percent=accuracy,
        )
    return drawings


def _reliability(reliability: Mapping[str, Sequence[Any]], models: Models) -> list[tuple[str, str, str]]:
    """Model, calibration error and drawing, for every model with a bin that is not empty."""
    drawings = []
    for index, (name, rows) in enumerate(reliability.items()):
        bins = [(float(c), float(a), float(s)) for c, a, s in rows if None not in map(number, (c, a, s)) and s > 0]
        if bins:
            error = number(models.get(name, {}).get("ece"))
            drawing = plots.reliability(f"bins{index}", f"Accuracy against confidence of {name}", slot(name), bins)
            drawings.append((name, DASH if error is None else f"{percent(error)}%", drawing))
    return drawings


def _classes(classes: Mapping[str, Any], most: int = 20) -> dict[str, Any]:
    """Accuracy per class and the student's change against itself alone, or else against the teacher.

    The largest gains come first and the largest losses last; of many classes only those.
    """
    names, sizes = classes.get("names") or [], classes.get("examples") or []
    models: Mapping[str, Sequence[Any]] = classes.get("accuracy") or {}
    students = [name for name in models if name not in (TEACHER, ALONE)]
    reference = next((name for name in (ALONE, TEACHER) if name in models), None)
    if not students or reference is None:
        return {"rows": []}
    rows = []
    for place, name in enumerate(names):
        before, after = number(models[reference][place]), number(models[students[-1]][place])
        if before is not None and after is not None:
            rows.append((after - before, str(name), [MEASURES["accuracy"].text(row[place]) for row in models.values()]))
    rows.sort(key=lambda row: -row[0])
    shown = rows if len(rows) <= most else rows[: most // 2] + rows[-most // 2 :]
    widest = max((abs(change) for change, *_ in shown), default=0.0) or 1.0
    full = [size for size in sizes if size]
    return {
        "models": list(models),
        "reference": reference,
        "sizes": (min(full), max(full)) if full else None,
        "total": len(rows),
        "rows": [(name, texts, points(change), round(50 * change / widest, 1)) for change, name, texts in shown],
    }


def _confusion(confusion: Mapping[str, Any], names: Sequence[Any], most: int = 50) -> dict[str, Any] | None:
    """Who is right where student and teacher differ, the commonest pairs of answers, and all of them as a map.

    The map has a row per answer of the teacher and a column per answer of the student, at most `most` of each.
    """
    if not confusion.get("examples") or not names:
        return None
    pairs = [tuple(pair) for pair in confusion.get("pairs") or []]
    rows, columns = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    cells = {(pair[0], pair[1]): pair[2] for pair in pairs}
    top = max(cells.values(), default=1)
    total, differ, teacher, student = (
        confusion[key] for key in ("examples", "differ", "teacher_right", "student_right")
    )
    return {
        "differ": differ,
        "total": total,
        "share": percent(differ / total),
        "right": {"the teacher": teacher, "the student": student, "neither": differ - teacher - student},
        "pairs": [(str(names[t]), str(names[s]), *counts) for t, s, *counts in pairs[:10]],
        "kinds": len(pairs),
        "columns": [str(names[s]) for s in columns],
        "map": [
            (str(names[t]), [(cells.get((t, s), 0), round(cells.get((t, s), 0) / top, 2), s == t) for s in columns])
            for t in rows
        ]
        if len(pairs) > 2 and max(len(rows), len(columns)) <= most
        else [],
    }


ANSWERS = {"label": "truth", "alone": "alone", "distilled": "distilled", "teacher": "teacher"}
MEANING = {
    "gained": "Right when distilled, wrong when trained alone",
    "lost": "Right when trained alone, wrong when distilled",
    "disagreeing": "Where the student's probabilities are furthest from its teacher's (largest KL divergence)",
}


def _examples(groups: Mapping[str, Rows]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Heading, explanation and members of each group of examples."""
    return [
        (str(name), MEANING.get(name, "Other examples"), [_example(example) for example in examples])
        for name, examples in groups.items()
    ]


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    image, distance = str(example.get("image") or ""), number(example.get("kl"))
    return {
        "image": image if image.startswith("data:image/png;base64,") else None,
        "text": example.get("text"),
        "answers": [
            (word, str(example[key]), example[key] != example.get("label"))
            for key, word in ANSWERS.items()
            if example.get(key) is not None
        ],
        "distance": None if distance is None else f"{distance:.2f}",
    }
