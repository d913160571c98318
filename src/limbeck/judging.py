"""Student beside teacher and beside the student alone: quality on the test set, cost, and where they differ.

What `judge` returns is what result.json holds and report.html shows; images are small PNGs in it, so it stays small.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data import Data
from limbeck.losses.logit import kl
from limbeck.report import ALONE, TEACHER, plots
from limbeck.run import Run
from limbeck.signals import Net

if TYPE_CHECKING:
    from limbeck.experiment import Material

Judged = dict[str, Any]


def judge(material: Material, teachers: Sequence[Net], runs: Mapping[str, Run]) -> Judged:
    """All models on the test set. The last of `runs` is the student that the experiment is about."""
    from limbeck.evaluate import cost, fidelity, scores
    from limbeck.findings import after

    e, y = material.experiment, material.test.y
    assert y is not None
    student, last = list(runs.items())[-1]
    names = [TEACHER] if len(teachers) == 1 else [f"{TEACHER} {i + 1}" for i in range(len(teachers))]
    known = {TEACHER: last.teacher_logits} if names == [TEACHER] and last.teacher_logits is not None else {}
    nets = dict(zip(names, teachers, strict=True)) | {name: run.students[0] for name, run in runs.items()}
    logits = {name: last.predict(net, material.test) for name, net in nets.items() if name not in known}
    logits = {name: {**known, **logits}[name] for name in nets}
    spent = cost(nets, material.example)
    models = {}
    for name in nets:
        models[name] = {**scores(logits[name], y), **spent[name]}
        if TEACHER in nets and name != TEACHER:
            models[name] |= fidelity(logits[name], logits[TEACHER])
    return {
        "title": f"{e.student} on {e.data}",
        "summary": summary(material, models, student),
        "method": repr(last.method),
        "command": "limbeck distill --config run.yaml",
        "settings": asdict(e),
        "environment": environment(last.fabric.device.type, last.precision),
        "models": models,
        "curves": {name: run.history for name, run in runs.items()},
        "reliability": {name: reliability(logits[name], y) for name in nets},
        "classes": per_class({name: z.argmax(-1) for name, z in logits.items()}, y, material.classes),
        "confusion": disagreements(logits[student], logits[TEACHER], y) if TEACHER in nets else None,
        "examples": differences(
            material.test, material.classes, logits, student, getattr(material.source, "words", ())
        ),
        "check": [asdict(each) for each in after(material, nets, logits, student, last.predict)],
    }


def summary(material: Material, models: Mapping[str, Mapping[str, float]], student: str) -> str:
    e, final = material.experiment, models[student]["accuracy"]
    text = f"{e.student} reaches {final:.1%} on {e.data}"
    if ALONE in models:
        gain = 100 * (final - models[ALONE]["accuracy"])
        text += f", {abs(gain):.1f} points {'more' if gain >= 0 else 'less'} than the same student trained alone"
    if models and (first := next(iter(models))).startswith(TEACHER):
        text += f"; its teacher has {models[first]['accuracy']:.1%}"
    return text + "."


def environment(device: str, precision: object) -> dict[str, str]:
    from limbeck import __version__

    return {
        "limbeck": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "precision": str(precision),
        "threads": str(torch.get_num_threads()),
    }


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> list[list[float]]:
    """[mean confidence, accuracy, share of the examples] of each bin that is not empty."""
    confidence, choice = logits.double().softmax(-1).max(-1)
    right, place = (choice == y).double(), (confidence * bins).long().clamp(max=bins - 1)
    rows = [(place == b) for b in range(bins)]
    return [
        [confidence[row].mean().item(), right[row].mean().item(), row.double().mean().item()]
        for row in rows
        if row.any()
    ]


def per_class(choices: Mapping[str, Tensor], y: Tensor, names: Sequence[str]) -> Judged:
    """Accuracy in [0, 1] of each class, per model, from its choices (n,); None where a class has no example."""
    sizes = [int((y == k).sum()) for k in range(len(names))]
    return {
        "names": list(names),
        "examples": sizes,
        "accuracy": {
            model: [int(((y == k) & (choice == k)).sum()) / size if size else None for k, size in enumerate(sizes)]
            for model, choice in choices.items()
        },
    }


def disagreements(student: Tensor, teacher: Tensor, y: Tensor, most: int = 2500) -> Judged:
    """Where two models' logits (n, c) choose different classes, and who is right there.

    Returns:
        examples, differ: how many there are, and on how many the choices differ.
        teacher_right, student_right: on how many of those.
        pairs: [teacher's class, student's class, examples, teacher right, student right], the commonest `most`.
    """
    s, t = student.argmax(-1), teacher.argmax(-1)
    rows = (s != t).nonzero().squeeze(1).tolist()
    pairs = Counter((int(t[i]), int(s[i])) for i in rows)
    right = Counter((int(t[i]), int(s[i]), int(y[i])) for i in rows)
    commonest = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return {
        "examples": len(y),
        "differ": len(rows),
        "teacher_right": sum(int(t[i] == y[i]) for i in rows),
        "student_right": sum(int(s[i] == y[i]) for i in rows),
        "pairs": [[a, b, n, right[a, b, a], right[a, b, b]] for (a, b), n in commonest[:most]],
    }


def differences(
    data: Data,
    classes: Sequence[str],
    logits: Mapping[str, Tensor],
    student: str,
    words: Sequence[str] = (),
    most: int = 12,
) -> dict[str, list[Judged]]:
    """Examples to look at, in groups, each at most `most`.

    gained, lost: only the student, or only the student alone, is right; those with the surest right answer first.
    disagreeing: largest KL(teacher || student), in nats.
    """
    y = data.y
    assert y is not None
    roles = {"teacher": TEACHER, "alone": ALONE, "distilled": student}
    found: dict[str, Tensor] = {}
    if ALONE in logits:
        for group, winner, loser in (("gained", student, ALONE), ("lost", ALONE, student)):
            only = (logits[winner].argmax(-1) == y) & (logits[loser].argmax(-1) != y)
            sure = logits[winner].softmax(-1).gather(1, y.unsqueeze(1)).squeeze(1)
            found[group] = sure.masked_fill(~only, -1)
    if TEACHER in logits:
        apart = kl(logits[student].double(), logits[TEACHER].double())
        found["disagreeing"] = apart.masked_fill(~(apart > 0), -1)

    def example(i: int, group: str) -> Judged:
        said = {role: classes[int(logits[name][i].argmax())] for role, name in roles.items() if name in logits}
        measure = {"kl": float(found[group][i])} if group == "disagreeing" else {}
        return {**shown(data, i, words), "label": classes[int(y[i])], **said, **measure}

    return {
        group: [example(i, group) for i in order.argsort(descending=True)[:most].tolist() if order[i] >= 0]
        for group, order in found.items()
    }


def shown(data: Data, i: int, words: Sequence[str] = (), side: int = 96) -> Judged:
    """What a person can look at of an example: an image, at most `side` pixels wide and high, or a text, by its
    `words` if it is token ids."""
    if words:
        return {"text": " ".join(words[token] for token in data.x[i].tolist() if token)}
    if isinstance(data.x, Tensor) and data.x.dim() == 4:
        image = data.x[i].float()
        if max(image.shape[1:]) > side:
            scale = side / max(image.shape[1:])
            image = F.interpolate(image[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
        return {"image": plots.png(image.numpy())}
    item = data.x[i] if not data.in_memory else None
    item = item[0] if isinstance(item, tuple) else item
    text = item.get("text") if isinstance(item, Mapping) else item
    return {"text": text} if isinstance(text, str) else {}
