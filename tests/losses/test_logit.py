import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from tests.strategies import few, labels, logits, losses, normal, probabilities, tensors


def softmax(row: Tensor) -> list[float]:
    exps = [math.exp(number) for number in row.tolist()]
    return [each / sum(exps) for each in exps]


def test_kl_by_hand() -> None:
    # the teacher is sure of 1/2, 1/4, 1/4; the student has no opinion: log 3 - H(teacher) = log 3 - 1.5 log 2
    teacher = torch.tensor([[2.0, 1.0, 1.0]]) * math.log(2)
    student = torch.tensor([[5.0, 5.0, 5.0]])
    assert losses.kl(student, teacher).item() == pytest.approx(math.log(3) - 1.5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_kl_by_loops(tau: float) -> None:
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softmax(s / tau), softmax(t / tau)
        expected.append(tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    torch.testing.assert_close(losses.kl(student, teacher, tau=tau), torch.tensor(expected, dtype=torch.float64))


def test_gradient_of_kl_is_tau_times_the_difference_of_softened_probabilities() -> None:
    student, teacher, tau = normal(5, 4).requires_grad_(), normal(5, 4, seed=1), 3.0
    losses.kl(student, teacher, tau=tau).sum().backward()
    expected = tau * ((student / tau).softmax(-1) - (teacher / tau).softmax(-1))
    torch.testing.assert_close(student.grad, expected.detach())


def test_hot_kl_is_the_squared_distance_of_centred_logits() -> None:
    """Hinton et al. 2015, section 2.1: tau**2 KL goes to |s - t|**2 / 2n, whatever the temperature."""
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1) / (2 * 4)
    torch.testing.assert_close(losses.kl(student, teacher, tau=1e4), expected, rtol=1e-3, atol=0)


@few
@given(tensors(3, 4), tensors(3, 4), tensors(3, 1, numbers=st.floats(-1e3, 1e3)), st.floats(0.1, 10))
def test_a_constant_in_the_logits_is_no_matter(student: Tensor, teacher: Tensor, shift: Tensor, tau: float) -> None:
    value = losses.kl(student, teacher, tau=tau)
    torch.testing.assert_close(losses.kl(student + shift, teacher - 2 * shift, tau=tau), value, rtol=1e-7, atol=1e-9)


def test_any_leading_dimensions() -> None:
    student, teacher, y = normal(2, 3, 4), normal(2, 3, 4, seed=1), torch.tensor([[0, -1, 3], [1, 1, -1]])
    for value, flat in [
        (losses.kl(student, teacher), losses.kl(student.flatten(0, 1), teacher.flatten(0, 1))),
        (losses.cross_entropy(student, y), losses.cross_entropy(student.flatten(0, 1), y.flatten())),
    ]:
        assert value.shape == (2, 3)
        torch.testing.assert_close(value.flatten(), flat)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_a_temperature_is_positive(tau: float) -> None:
    with pytest.raises(SettingError, match=str(tau)):
        losses.kl(torch.zeros(1, 2), torch.zeros(1, 2), tau=tau)


def test_cross_entropy_by_hand() -> None:
    z = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])  # probabilities 1/4, 3/4
    torch.testing.assert_close(losses.cross_entropy(z, torch.tensor([0, 1])), torch.tensor([4.0, 4 / 3]).log())
    halves = torch.full((2, 2), 0.5)
    torch.testing.assert_close(losses.cross_entropy(z, halves), torch.tensor([16 / 3] * 2).log() / 2)


@few
@given(logits(4, 3), labels(4, 3))
def test_unlabelled_rows_cost_nothing_and_teach_nothing(z: Tensor, y: Tensor) -> None:
    z.requires_grad_()
    value = losses.cross_entropy(z, y)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    without = y == -1
    assert not value[without].any()
    assert not gradient[without].any()
    for i in (~without).nonzero().flatten().tolist():
        torch.testing.assert_close(value[i], z[i].logsumexp(0) - z[i, y[i]])


@few
@given(logits(4, 3), logits(4, 3), probabilities(4, 3))
def test_soft_cross_entropy_exceeds_the_entropy_by_the_kl(student: Tensor, teacher: Tensor, p: Tensor) -> None:
    p = (p + teacher.softmax(-1)) / 2
    entropy = -torch.xlogy(p, p).sum(-1)
    excess = losses.cross_entropy(student, p) - entropy
    torch.testing.assert_close(excess, losses.kl(student, p.clamp(min=1e-300).log()), rtol=1e-9, atol=1e-9)


@few
@given(logits(4, 3), labels(4, 3))
def test_soft_cross_entropy_with_certain_targets_is_the_hard_one(z: Tensor, y: Tensor) -> None:
    certain = torch.zeros(4, 3, dtype=z.dtype)
    for row, c in zip(certain, y.tolist(), strict=True):
        if c >= 0:
            row[c] = 1
    torch.testing.assert_close(losses.cross_entropy(z, certain), losses.cross_entropy(z, y))
