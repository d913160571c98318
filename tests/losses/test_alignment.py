import math
from typing import get_args

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.alignment import (
    Compare,
    chunk_divergence,
    chunk_log_probabilities,
    mapped,
    merged_chunks,
    uld,
)
from limbeck.losses.logit import kl
from tests.strategies import few, normal, tensors

everything = pytest.mark.parametrize("compare", get_args(Compare))
no_target = pytest.mark.parametrize("compare", [each for each in get_args(Compare) if each != "ce"])
log_p = tensors(6, numbers=st.floats(-50, 0) | st.sampled_from([0.0, -1e-9, -1e4]))


def test_chunks_add_up_what_is_in_them() -> None:
    found = chunk_log_probabilities(
        torch.tensor([[-1.0, -2.0, -4.0, -8.0], [-1.0, -1.0, -1.0, 1e-7]]),
        torch.tensor([[1, 0, 1, -1], [-1, -1, -1, 2]]),
        3,
    )
    assert found.tolist() == [[-2.0, -5.0, 0.0], [0.0, 0.0, 0.0]]  # at most 0


def test_chunks_pass_their_gradient_to_their_tokens() -> None:
    log_p = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    (chunk_log_probabilities(log_p, torch.tensor([0, -1, 0]), 1) * 3).sum().backward()
    assert log_p.grad.tolist() == [3.0, 0.0, 3.0]


def test_by_hand() -> None:
    """p = 1/4, q = 1/2."""
    teacher, student = torch.tensor([0.25]).double().log(), torch.tensor([0.5]).double().log()
    yes, no = 0.25, 0.75
    expected = {
        "ce": math.log(2),
        "kl": yes * math.log(1 / 2) + no * math.log(3 / 2),
        "reverse_kl": 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        "limit": -math.log(2) + 2 * math.log(2) * math.log(2),  # a - b + a log(b / a), b / a = 1 / 2
        "abs": math.log(2),
        "abs_exp": 0.25,
        "renyi": -2 * math.log(math.sqrt(0.125) + math.sqrt(0.375)),
        "k2": math.log(2) ** 2 / 2,
        "k3": 0.5 - 1 + math.log(2),
    }
    assert expected.keys() == set(get_args(Compare))
    for compare, value in expected.items():
        found = chunk_divergence(student, teacher, compare=compare, tau=1.0, eps=1e-12)
        torch.testing.assert_close(found, torch.tensor([value]).double())


@no_target
@few
@given(log_p, log_p)
def test_zero_at_the_teacher_and_never_less(compare: Compare, student: Tensor, teacher: Tensor) -> None:
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        q, p = student.to(dtype), teacher.to(dtype)
        assert chunk_divergence(p, p, compare=compare).abs().max() <= slack
        assert (chunk_divergence(q, p, compare=compare) >= -slack).all()


@everything
@few
@given(log_p, log_p)
def test_finite_with_a_finite_gradient_in_single_precision(compare: Compare, student: Tensor, teacher: Tensor) -> None:
    for tau in (1.0, 100.0):
        lowest = -80.0 * tau if compare == "k3" else -torch.inf  # it says where it overflows
        q = student.float().clamp(min=lowest).requires_grad_()
        value = chunk_divergence(q, teacher.float(), compare=compare, tau=tau)
        (gradient,) = torch.autograd.grad(value.sum(), q)
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@everything
def test_gradient_is_the_finite_difference(compare: Compare) -> None:
    student, teacher = -normal(5).abs() - 0.1, -normal(5, seed=1).abs() - 0.1
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: chunk_divergence(s, teacher, compare=compare, tau=3.0), student)


def test_kl_and_ce_differ_by_what_is_the_teachers_alone() -> None:
    student, teacher = (-normal(5, seed=seed).abs() for seed in (0, 1))
    gradients = []
    for compare in ("kl", "ce"):
        q = student.clone().requires_grad_()
        value = chunk_divergence(q, teacher, compare=compare)
        least = chunk_divergence(teacher, teacher, compare=compare)
        gradients.append(torch.autograd.grad((value - least).sum(), q)[0])
    torch.testing.assert_close(*gradients)


def test_the_limit_is_that_of_large_temperatures() -> None:
    student, teacher = (-normal(5, seed=seed).abs() for seed in (0, 1))
    near = 1e6 * chunk_divergence(student, teacher, compare="kl", tau=1e6, eps=1e-14)
    torch.testing.assert_close(near, chunk_divergence(student, teacher, compare="limit"), rtol=1e-4, atol=1e-5)


def test_renyi_nears_kl_at_order_one() -> None:
    student, teacher = (-normal(5, seed=seed).abs() for seed in (0, 1))
    near = chunk_divergence(student, teacher, compare="renyi", alpha=1 - 1e-6)
    torch.testing.assert_close(near, chunk_divergence(student, teacher, tau=1.0), rtol=1e-4, atol=1e-6)


def test_settings_that_make_no_sense() -> None:
    one = torch.tensor([-1.0])
    with pytest.raises(SettingError, match="tau=0"):
        chunk_divergence(one, one, tau=0)
    with pytest.raises(SettingError, match="alpha=1"):
        chunk_divergence(one, one, compare="renyi", alpha=1)
    with pytest.raises(SettingError, match="reverse_kl"):
        chunk_divergence(one, one, compare="mse")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="tau=-1"):
        uld(one, one, tau=-1)


def test_chunks_merge_up_to_where_the_teacher_expects_a_new_word() -> None:
    boundary = torch.tensor([[0.05, 0.5, 0.0, 0.9, 0.2], [0.5, 0.9, 0.1, 0.1, 0.0]])
    counted = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], dtype=torch.bool)
    assert merged_chunks(boundary, counted).tolist() == [[0, 0, 1, 1, 2], [0, -1, 1, 1, -1]]
    assert merged_chunks(boundary, counted, threshold=0.5).tolist() == [[0, 0, 0, 0, 1], [0, -1, 0, 0, -1]]


def test_uld_by_hand() -> None:
    student = torch.tensor([[0.7, 0.3]]).log()
    teacher = torch.tensor([[0.1, 0.6, 0.3]]).log()
    torch.testing.assert_close(uld(student, teacher), torch.tensor([0.1 + 0.0 + 0.1]))
    torch.testing.assert_close(uld(teacher, student), torch.tensor([0.2]))


@few
@given(tensors(2, 4), st.permutations(range(4)), st.floats(0.5, 5))
def test_uld_does_not_know_the_classes(logits: Tensor, order: list[int], tau: float) -> None:
    torch.testing.assert_close(uld(logits[:, order], logits, tau=tau), torch.zeros(2).double(), atol=1e-12, rtol=0)
    padded = torch.cat([logits, torch.full((2, 3), -torch.inf)], 1)  # a padded vocabulary
    torch.testing.assert_close(uld(logits, padded, tau=tau), torch.zeros(2).double(), atol=1e-12, rtol=0)


def test_mapped_logits_are_in_the_students_vocabulary() -> None:
    teacher = torch.tensor([[1.0, 2.0, 3.0]])
    found = mapped(teacher, torch.tensor([2, 0, -1, 2]))
    assert found.tolist() == [[3.0, 1.0, -1e4, 3.0]]
    assert kl(found, found).tolist() == [0.0]
    assert kl(torch.zeros(1, 4), found).isfinite().all()
