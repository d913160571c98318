"""Correlations, standardised logits and DIST."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.correlation import dist, pearson, standardise
from tests.strategies import batches, few, normal


def test_pearson_is_numpys() -> None:
    a, b = normal(4, 6), normal(4, 6, seed=1)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(pearson(a, b, eps=0.0), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("number", [0.0, 1 / 3, -7.3, 1e4])
def test_constant_rows_have_no_direction(number: float, dtype: torch.dtype) -> None:
    a = torch.full((3, 7), number, dtype=dtype).requires_grad_()
    b = normal(3, 7).to(dtype).requires_grad_()
    value = pearson(a, b)
    assert not value.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(value.sum(), (a, b)))
    z = standardise(a)
    assert not z.any()
    assert not torch.autograd.grad(z.sum(), a)[0].any()


@few
@given(batches("logits"), st.floats(0.1, 10), st.floats(-100, 100))
def test_standardised_logits(pair: tuple[Tensor, Tensor, Tensor], scale: float, shift: float) -> None:
    logits, _, _ = pair
    z = standardise(logits)
    torch.testing.assert_close(z.mean(-1), torch.zeros(len(z), dtype=z.dtype), atol=1e-9, rtol=0)
    moving = logits.std(-1) > 1e-3
    torch.testing.assert_close(z.std(-1)[moving], torch.ones(len(z), dtype=z.dtype)[moving], rtol=1e-3, atol=0)
    torch.testing.assert_close(standardise(scale * logits + shift)[moving], z[moving], rtol=1e-2, atol=1e-3)


def test_standardise_takes_half_precision_up() -> None:
    assert standardise(normal(2, 3).bfloat16()).dtype == torch.float32


# --- dist ---------------------------------------------------------------------------------------------------------


def test_near_zero_and_nearly_flat_at_equality() -> None:
    student, teacher = normal(6, 4).requires_grad_(), normal(6, 4)
    value = dist(student, teacher)
    assert value.abs().max() < 1e-6
    assert torch.autograd.grad(value.sum(), student)[0].abs().max() < 1e-5


def test_by_hand() -> None:
    """Of two classes all correlations are 1 or -1."""
    student, teacher = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    torch.testing.assert_close(dist(student, teacher, gamma=0.0), torch.tensor([0.0, 2.0]), atol=1e-6, rtol=0)
    # more sure of class 1 in the first example than in the second, the teacher less
    torch.testing.assert_close(dist(student, teacher, beta=0.0), torch.tensor([2.0, 2.0]), atol=1e-4, rtol=0)


def test_a_batch_of_one_has_no_second_part() -> None:
    torch.testing.assert_close(
        dist(normal(1, 5), normal(1, 5, seed=1), gamma=3.0), dist(normal(1, 5), normal(1, 5, seed=1), gamma=0.0) + 3.0
    )


def test_a_temperature_is_positive() -> None:
    with pytest.raises(SettingError, match="positive"):
        dist(normal(2, 3), normal(2, 3), tau=-1.0)
