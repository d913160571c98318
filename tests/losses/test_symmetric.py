import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from limbeck.losses.logit import kl
from limbeck.losses.symmetric import symmetric_kl
from tests.strategies import batches, few, normal


@few
@given(batches("logits"))
def test_symmetric_and_bounded_by_eps(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = batch
    value = symmetric_kl(student, teacher, eps=1e-12)
    torch.testing.assert_close(value, symmetric_kl(teacher, student, eps=1e-12))
    assert (value <= -math.log(1e-12) + 1e-9).all()


def test_is_half_of_both_directions_without_eps() -> None:
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    both = (kl(student, teacher) + kl(teacher, student)) / 2
    torch.testing.assert_close(symmetric_kl(student, teacher, eps=0.0), both)


@pytest.mark.parametrize("eps", [1e-12, 0.05])
def test_is_the_authors_equation(eps: float) -> None:
    student, teacher = normal(5, 4) * 3, normal(5, 4, seed=1) * 3
    p, q = student.softmax(-1), teacher.softmax(-1)
    one = (q * ((q + eps) / (p + eps)).log()).sum(-1)
    other = (p * ((p + eps) / (q + eps)).log()).sum(-1)
    torch.testing.assert_close(symmetric_kl(student, teacher, eps=eps), (one + other) / 2)


def test_by_hand_and_by_finite_differences() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, math.log(3.0)]]).double()
    # (p - q) log(p / q) over the classes: (1/4) ln 2 + (1/4) ln(3/2), and half of it
    torch.testing.assert_close(symmetric_kl(student, teacher), torch.tensor([math.log(3.0) / 8]).double())
    assert torch.autograd.gradcheck(lambda s: symmetric_kl(s, normal(4, 3, seed=1)), normal(4, 3).requires_grad_())
