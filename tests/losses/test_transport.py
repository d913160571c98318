"""The Sinkhorn solver and the distance that it gives between two batches of distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.divergence import reverse_kl
from limbeck.losses.transport import sinkhorn, sinkhorn_distance
from tests.strategies import batches, few, normal


def test_the_plan_has_the_sums_it_was_given() -> None:
    cost = normal(3, 4, 5).abs()
    rows, columns = normal(3, 4, seed=1).softmax(-1), normal(3, 5, seed=2).softmax(-1)
    plan = sinkhorn(cost, eps=0.5, iters=200, rows=rows, columns=columns).exp()
    torch.testing.assert_close(plan.sum(-1), rows)
    torch.testing.assert_close(plan.sum(-2), columns)


def test_columns_come_last() -> None:
    plan = sinkhorn(normal(4, 4).abs(), eps=0.1, iters=3).exp()
    torch.testing.assert_close(plan.sum(0), torch.ones(4, dtype=torch.float64))
    assert (plan.sum(1) - 1).abs().max() > 1e-6


def test_one_round_by_hand() -> None:
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    e = np.exp(-2.0)
    expected = torch.tensor([[1.0, e], [e, 1.0]], dtype=torch.float64) / (1 + e)
    torch.testing.assert_close(sinkhorn(cost, eps=0.5, iters=1).exp(), expected)


def test_a_small_eps_finds_the_best_assignment() -> None:
    cost = normal(6, 6).abs()
    plan = sinkhorn(cost, eps=1e-3, iters=3000).exp()
    best = torch.from_numpy(np.stack(linear_sum_assignment(cost.numpy())))
    assert (plan[best[0], best[1]] > 0.99).all()


def test_an_empty_row_takes_no_part() -> None:
    cost = normal(3, 4).abs().requires_grad_()
    rows = torch.tensor([2.0, 0.0, 2.0], dtype=torch.float64)
    plan = sinkhorn(cost, eps=0.5, iters=200, rows=rows).exp()
    torch.testing.assert_close(plan[[0, 2]], sinkhorn(cost[[0, 2]], eps=0.5, iters=200, rows=rows[[0, 2]]).exp())
    assert not plan[1].any()
    assert torch.autograd.grad((plan * cost).sum(), cost)[0].isfinite().all()


@pytest.mark.parametrize("settings", [{"eps": 0.0, "iters": 1}, {"eps": 0.1, "iters": 0}])
def test_settings_that_cannot_be(settings: dict) -> None:
    with pytest.raises(SettingError, match="eps > 0 and iters >= 1"):
        sinkhorn(normal(2, 2), **settings)


# --- sinkhorn_distance --------------------------------------------------------------------------------------------


@few
@given(batches("logits"), st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(pair: tuple[Tensor, Tensor, Tensor], random) -> None:
    """Of one side and of both: only the set of the teacher's distributions counts."""
    student, teacher, _ = pair
    order = torch.tensor(random.sample(range(len(student)), len(student)))
    value = sinkhorn_distance(student, teacher)
    torch.testing.assert_close(sinkhorn_distance(student[order], teacher), value[order], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(sinkhorn_distance(student, teacher[order]), value, rtol=1e-6, atol=1e-9)


def test_equal_batches_are_near_and_broken_pairs_count_less_than_in_kl() -> None:
    student = 20 * torch.eye(4, dtype=torch.float64)
    assert sinkhorn_distance(student, student).max() < 1e-3
    assert sinkhorn_distance(student, student.roll(1, 0)).max() < 1e-3
    assert reverse_kl(student, student.roll(1, 0)).min() > 10


def test_a_batch_of_one_has_its_l1_distance() -> None:
    student, teacher = normal(1, 5), normal(1, 5, seed=1)
    distance = ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(sinkhorn_distance(student, teacher), distance)
