"""Figures that tell whether labels, a teacher and what it passed on can be trusted. Tensors in, numbers out.

before training   class_balance, label_noise, relabelled, fitted_temperature, capacity_gap
after             passed_on: the answers that a student has from its teacher, and not from the labels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.errors import DataError, SettingError

__all__ = [
    "Passed",
    "capacity_gap",
    "class_balance",
    "fitted_temperature",
    "label_noise",
    "out_of_bag",
    "passed_on",
    "relabelled",
]


def class_balance(y: Tensor, classes: int) -> dict[str, Any]:
    """How the labels y (n,), UNLABELLED where there is none, are spread over the `classes`.

    Returns:
        counts: examples of each class.
        ratio: the largest over the smallest count, of the classes that have any, >= 1; None without labels.
        empty: the classes without a label.
        unlabelled: share of the examples without a label.
    """
    counts = torch.bincount(y[y != UNLABELLED], minlength=classes)
    present = counts[counts > 0]
    return {
        "counts": counts.tolist(),
        "ratio": float(present.max() / present.min()) if len(present) else None,
        "empty": (counts == 0).nonzero().flatten().tolist(),
        "unlabelled": float((y == UNLABELLED).double().mean()),
    }


# ---- the teacher


def fitted_temperature(logits: Tensor, y: Tensor) -> float:
    """The T in [0.05, 20] for which softmax(logits / T), (n, c), has the least NLL of the labels y (n,).

    Above 1: the model is over-confident. Without a single mistake T has no minimum and is the lower end.
    (Temperature scaling: Guo et al. 2017, arXiv:1706.04599, section 4.2.)
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    logits, y = logits.double().cpu(), y.cpu()
    found = minimize_scalar(  # in 1 / T the NLL is convex
        lambda inverse: float(F.cross_entropy(logits * inverse, y)), bounds=(1 / 20, 1 / 0.05), method="bounded"
    )
    return float(1 / found.x)


def relabelled(choice: Tensor, y: Tensor, classes: int) -> float:
    """The accuracy of the choices (n,) if the model's classes were in the order that suits the labels y (n,) best."""
    from scipy.optimize import linear_sum_assignment

    confusion = torch.bincount(y.cpu() * classes + choice.cpu(), minlength=classes**2).view(classes, classes)
    return int(confusion[linear_sum_assignment(confusion, maximize=True)].sum()) / len(y)


def capacity_gap(student: float, teacher: float) -> dict[str, Any]:
    """The numbers of parameters beside the law of capacity gap: a teacher of 2.498 S - 11.5 million is best for a
    student of S (Zhang et al. 2023, MiniMA, arXiv:2311.07052; R^2 = 0.996 in the paper).

    It was fitted on GPT-2 and Pythia with teachers of 70 million to 2.8 billion, and students cut out of them: a larger
    teacher also meant a rougher cut. Whether it holds for other models, nobody has measured.

    Returns:
        ratio: teacher over student.
        best: parameters of the best teacher by the law; at most 0 for small students, where it says nothing.
        inside: whether the teacher's size is one that the law was fitted on.
    """
    return {
        "ratio": teacher / student,
        "best": 2.498 * student - 11.498e6,
        "inside": 70e6 <= teacher <= 2.8e9,
    }


# ---- the labels


def label_noise(probabilities: Tensor, y: Tensor, most: int = 10) -> dict[str, Any]:
    """Share of wrong labels by confident learning (Northcutt et al. 2021, arXiv:1911.00068, eq. 1-3).

    An example counts for the class whose probability is largest among those above the class's threshold: the mean
    probability of the class over the examples that have its label.

    The probabilities (n, c) must be out of sample, and all rows labelled: a model that knows the labels y (n,) by heart
    finds nothing, whatever the noise, nor does a classifier on its embedding (measured: docs/check.md). The model's own
    confident mistakes count as noise: a weak model finds too much.

    Returns:
        rate: the share, in [0, 1].
        suspects: the rows whose class by the count differs from the label, the surest first, at most `most`.
    """
    p, n, classes = probabilities.double(), len(y), probabilities.shape[1]
    given = F.one_hot(y, classes).double()
    threshold = (p * given).sum(0) / given.sum(0)  # NaN for a class without labels: nothing counts for it
    sure = p >= threshold.clamp(min=1e-9)  # and none does whose own examples all have probability 0
    rows = sure.any(1)
    counted = p.where(sure, -1).argmax(1)
    joint = torch.zeros(classes, classes, dtype=p.dtype)
    joint.index_put_((y[rows], counted[rows]), torch.ones((), dtype=p.dtype), accumulate=True)
    share = joint / joint.sum(1, keepdim=True).clamp(min=1) * given.sum(0).unsqueeze(1) / n
    margin = p.gather(1, counted.unsqueeze(1)) - p.gather(1, y.unsqueeze(1))
    order = margin.squeeze(1).where(rows & (counted != y), -2).argsort(descending=True)
    return {
        "rate": float(share.fill_diagonal_(0).sum()),
        "suspects": order[: min(most, int((rows & (counted != y)).sum()))].tolist(),
    }


def out_of_bag(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Probabilities (n, classes) of inputs x (n, ...) from a forest, each tree asked only of examples that it has not
    seen: cheap, and out of sample. Images are averaged down to at most 28 x 28 pixels.

    Raises DataError with fewer than two examples.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    if len(x) < 2:
        raise DataError(f"a forest needs at least two labelled examples; there are {len(x)}")
    x = x.float()
    if x.dim() == 4:
        x = F.adaptive_avg_pool2d(x, (min(x.shape[2], 28), min(x.shape[3], 28)))
    forest = ExtraTreesClassifier(200, bootstrap=True, oob_score=True, random_state=0)
    forest.fit(x.flatten(1).numpy(), y.numpy())
    p = torch.zeros(len(x), classes, dtype=torch.float64)
    p[:, torch.from_numpy(forest.classes_)] = torch.from_numpy(forest.oob_decision_function_)
    return p


# ---- what the teacher passed on


@dataclass(frozen=True)
class Passed:
    """A wrong answer that the teacher gives on a slice of the examples, and the reference does not.

    student, teacher, reference: how often each gives it, in [0, 1], of the `examples` with another label.
    taken_over: the student gives it too. amplification: then, student / teacher, with its 95 % bounds.
    q: the false discovery rate at which it is found.
    """

    slice: str
    answer: int
    examples: int
    student: float
    teacher: float
    reference: float
    taken_over: bool
    amplification: tuple[float, float, float] | None
    q: float

    @property
    def planted(self) -> bool:
        """So a trigger looks: the teacher gives the answer on most of the slice, and the student took it over."""
        return self.taken_over and self.teacher > 0.5


def passed_on(
    student: Tensor, teacher: Tensor, reference: Tensor, y: Tensor, slices: Mapping[str, Tensor], *, level: float = 0.05
) -> list[Passed]:
    """The wrong answers that come to the student through the teacher, slice by slice, the commonest first.

    For each slice and answer: the examples that the reference has right and the model answers so, against those that
    the model has right and the reference wrong, by a one-sided sign test. So ordinary differences, where a model gains
    elsewhere in the slice as much as it loses, do not count. An answer is taken over where both the student and the
    teacher are worse than the reference by it (the larger p-value of the two); Benjamini and Hochberg's
    procedure keeps the false discovery rate below `level`, over all slices and answers (for tests that are independent
    or go together). Answers that only the teacher gives are
    returned where it gives them on most of the slice.

    It finds what shows on the given slices: a trigger that is in none of them stays unseen, and so does a bias that
    the reference shares. After Chaudhari et al. 2025, arXiv:2505.24842, who compare rates of a known adverse answer.

    Args:
        student, teacher, reference: classes chosen by the distilled student, its teacher, and a student that was
            trained without the teacher, (n,) int64.
        y: (n,) labels; UNLABELLED rows are left out.
        slices: masks (n,) bool by name.
        level: false discovery rate in (0, 1).

    The bounds of `amplification` (Katz's, of a ratio of two shares) take the answers of the two models for independent;
    they go together, so the bounds are too wide rather than too narrow.
    """
    from scipy.stats import binom, false_discovery_control  # type: ignore[import-untyped]

    if not 0 < level < 1:
        raise SettingError(f"level is a rate in (0, 1); got {level}")
    classes = int(torch.stack([student, teacher, reference, y]).max()) + 1
    rows = {name: mask & (y != UNLABELLED) for name, mask in slices.items()}
    rows = {name: mask for name, mask in rows.items() if mask.any()}
    if not rows:
        return []
    examples, wrong, p = [], [], []
    for mask in rows.values():
        label, s, t, r = y[mask], student[mask], teacher[mask], reference[mask]
        examples.append(len(label) - torch.bincount(label, minlength=classes))
        wrong.append(torch.stack([torch.bincount(each[each != label], minlength=classes) for each in (s, t, r)]))
        for each in (s, t):
            lost = torch.bincount(each[(r == label) & (each != label)], minlength=classes)
            gained = ((r != label) & (each == label)).sum()
            p.append(torch.from_numpy(binom.sf(lost - 1, lost + gained, 0.5)))

    def discovered(p: Tensor) -> Tensor:
        return torch.from_numpy(false_discovery_control(p.flatten().numpy())).view_as(p)

    sizes, counts = torch.stack(examples), torch.stack(wrong)
    by_student, by_teacher = torch.stack(p).view(-1, 2, classes).unbind(1)
    q, q_teacher = discovered(by_student.maximum(by_teacher)), discovered(by_teacher)
    taken_over = q <= level
    stopped = ~taken_over & (q_teacher <= level) & (counts[:, 1] > 0.5 * sizes)
    found = []
    for i, answer in (taken_over | stopped).nonzero().tolist():
        n, over = int(sizes[i, answer]), bool(taken_over[i, answer])
        by = counts[i, :, answer].tolist()
        found.append(
            Passed(
                slice=list(rows)[i],
                answer=answer,
                examples=n,
                student=by[0] / n,
                teacher=by[1] / n,
                reference=by[2] / n,
                taken_over=over,
                amplification=ratio(by[0], by[1], n) if over else None,
                q=float((q if over else q_teacher)[i, answer]),
            )
        )
    return sorted(found, key=lambda each: (-each.teacher, each.slice))


def ratio(a: int, b: int, n: int) -> tuple[float, float, float]:
    """a / b, counts out of n examples, with its 95 % bounds."""
    from scipy.stats.contingency import relative_risk  # type: ignore[import-untyped]

    found = relative_risk(a, n, b, n)
    bounds = found.confidence_interval(0.95)
    return found.relative_risk, float(bounds.low), float(bounds.high)
