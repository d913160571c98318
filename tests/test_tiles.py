"""Losses of large logits: computed together, and only when they are wanted."""

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import CE, JSD, KL, Objective, Term, Weighted, tiles
from limbeck.losses import cross_entropy, kl
from limbeck.objective import as_terms
from limbeck.signals import Head, Output
from tests.strategies import normal

ROWS, CLASSES = 7, 5


class Steps:
    """All that CE, KL and JSD look at."""

    def __init__(self) -> None:
        self.hidden, self.weight = normal(ROWS, 4, seed=0).requires_grad_(), normal(CLASSES, 4, seed=1).requires_grad_()
        self.outputs = {"student": Output({".embedding": self.hidden}, head=Head(self.weight))}
        self.outputs["teacher"] = Output({".embedding": normal(ROWS, 3, seed=2)}, head=Head(normal(CLASSES, 3, seed=3)))
        self.y = torch.arange(ROWS) % CLASSES
        self.rows, self.counts = ROWS, {None: ROWS, "labelled": ROWS}
        self.factor = torch.tensor(2.0, requires_grad=True)

    def student(self, view: str) -> Output:
        return self.outputs["student"]

    def teacher(self, view: str) -> Output:
        return self.outputs["teacher"]

    def mask(self, name: str) -> Tensor:
        return torch.ones(ROWS, dtype=torch.bool)

    def at(self, number: float) -> float:
        return number


def by(step: Any) -> Tensor:
    return torch.arange(ROWS) / ROWS


class Learnt(KL):
    """Its weight trains, so a gradient goes there too."""

    def loss(self, step: Any, state: Any) -> Any:
        return {"learnt": step.factor * super().loss(step, state)["kl"]}  # type: ignore[operator]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of what is tiled: how many losses each time."""
    seen: list[int] = []
    compute = tiles.compute
    monkeypatch.setattr(tiles, "compute", lambda group, *rest: (seen.append(len(group)), compute(group, *rest)))
    return seen


def found(method: Objective, large: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The parts of the loss; its gradients."""
    step: Any = Steps()
    monkeypatch.setattr(tiles, "LARGE", 0 if large else 1 << 60)
    with torch.no_grad():
        state = method.init(None)  # type: ignore[arg-type]
    terms = as_terms(method.loss(step, state))
    tiles.join(term.value for term in terms.values())
    parts = [term.part(step) for term in terms.values()]
    inputs = [step.hidden, step.weight, step.factor]
    return parts, [each for each in torch.autograd.grad(sum(parts), inputs, allow_unused=True) if each is not None]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        (CE() + 0.5 * KL(2.0), [2]),
        (0.3 * (CE() + KL(2.0)) + JSD(0.5) * 2, [3]),
        (CE() + Weighted(KL(1.0), by=by), [2]),
        (CE() + Learnt(1.0), [1, 1]),  # the weight's gradient needs the value itself
    ],
    ids=["two", "three", "weighted", "learnt"],
)
def test_several_losses_of_one_student_are_computed_in_one_go(
    method: Objective, groups: list[int], products: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = found(method, False, monkeypatch)
    assert products == []
    tiled = found(method, True, monkeypatch)
    assert products == groups
    torch.testing.assert_close(tiled, dense)


def test_two_students_and_two_teachers_are_kept_apart(products: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LARGE", 0)
    a, b = Steps(), Steps()
    pairs: list[Any] = [
        tiles.compared(cross_entropy, b.student("x"), None, b.y),
        tiles.compared(kl, a.student("x"), a.teacher("x"), tau=1.0),
        tiles.compared(kl, a.student("x"), b.student("x"), tau=3.0),
        tiles.compared(cross_entropy, a.student("x"), None, a.y),
        torch.zeros(ROWS),
    ]
    tiles.join(pairs)
    assert sorted(products) == [1, 1, 2]
    logits = a.student("x").logits
    torch.testing.assert_close(pairs[1].tensor(), kl(logits, a.teacher("x").logits, tau=1.0))
    torch.testing.assert_close(pairs[2].tensor(), torch.zeros(ROWS).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(pairs[3].tensor(), cross_entropy(logits, a.y))


def test_whoever_asks_for_the_numbers_gets_them_once(products: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LARGE", 0)
    step = Steps()
    value = tiles.compared(kl, step.student("x"), step.teacher("x"), tau=1.0)
    half = 0.5 * value
    assert products == []
    mean = value.mean()
    torch.testing.assert_close(mean, torch.stack([value.detach()[i] for i in range(ROWS)]).mean())
    torch.testing.assert_close(torch.where(step.mask("all"), value, 0.0), value + 0)
    assert products == [1]
    torch.testing.assert_close((half + 1).mean(), 1 + mean / 2)
    assert Term(value).part(step) == mean  # type: ignore[arg-type]
    assert products == [1, 1]
