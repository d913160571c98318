"""The Plackett-Luce loss of a ranking, and of the one that a teacher and the label make."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy
from limbeck.losses.ranking import plackett_luce, pld
from tests.strategies import batches, few, normal


def test_by_hand() -> None:
    """Scores log 3, log 2, log 1: chosen first with 3/6, then second with 2/3, then the only one left."""
    scores = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64).log()
    weights = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    expected = -(0.5 * math.log(3 / 6) + 0.3 * math.log(2 / 3))
    torch.testing.assert_close(plackett_luce(scores, weights), torch.tensor([expected], dtype=torch.float64))


def test_all_rankings_have_probability_one_together() -> None:
    scores, ones = normal(4), torch.ones(4, dtype=torch.float64)
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(order.tolist())) == 4 for order in orders]]
    total = (-plackett_luce(scores[orders], ones.expand(24, 4))).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_a_teacher_that_is_sure_of_the_label_gives_cross_entropy() -> None:
    student, y = normal(4, 5), torch.tensor([0, 2, 3, 1])
    teacher = torch.zeros(4, 5, dtype=torch.float64).scatter(1, y.unsqueeze(1), 1e4)
    torch.testing.assert_close(pld(student, teacher, y), cross_entropy(student, y))


def test_the_label_comes_first_even_where_the_teacher_is_wrong() -> None:
    """Then with the teacher's small probability, so that the loss is nearly that of the others' order."""
    teacher = torch.tensor([[9.0, 0.0, 4.0]], dtype=torch.float64)
    student = normal(1, 3)
    order, weights = torch.tensor([[1, 0, 2]]), teacher.softmax(-1)
    expected = plackett_luce(student.gather(1, order), weights.gather(1, order))
    torch.testing.assert_close(pld(student, teacher, torch.tensor([1])), expected)


@few
@given(batches("logits"), batches("logits"), st.floats(0, 1))
def test_convex_in_the_student(one: tuple[Tensor, ...], other: tuple[Tensor, ...], share: float) -> None:
    student, teacher, y = one
    if other[0].shape != student.shape:
        return
    mixed = pld(share * student + (1 - share) * other[0], teacher, y)
    assert (mixed <= share * pld(student, teacher, y) + (1 - share) * pld(other[0], teacher, y) + 1e-6).all()


def test_ties_are_broken_alike() -> None:
    student, teacher = normal(1, 100), torch.zeros(1, 100, dtype=torch.float64)
    order = torch.tensor([7, *range(7), *range(8, 100)])
    expected = plackett_luce(student[:, order], torch.full((1, 100), 0.01, dtype=torch.float64))
    torch.testing.assert_close(pld(student, teacher, torch.tensor([7])), expected)


def test_a_temperature_is_positive() -> None:
    with pytest.raises(SettingError, match="positive"):
        pld(normal(2, 3), normal(2, 3), torch.tensor([0, 1]), tau=0.0)
