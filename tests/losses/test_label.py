import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError, ShapeError
from limbeck.losses.label import bias_weight, correctness_aware, dco, dco_factor, feature_variance, tri_bce
from limbeck.losses.logit import cross_entropy
from limbeck.targets import one_hot
from tests.strategies import few, labels, logits, normal, tensors

CASES = Path(__file__).parents[1] / "parity" / "cases"


def case(name: str) -> dict:
    return json.loads((CASES / f"{name}.json").read_text())


def double(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    b, c = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    return draw(logits(b, c)), draw(labels(b, c))


# --- direct coverage optimisation ---------------------------------------------------------------------------------


@few
@given(tensors(5, numbers=st.floats(-60, -1e-6)), st.sampled_from([1, 1.5, 2, 16, 1000]))
def test_dco_is_the_log_of_the_coverage(log_p: Tensor, n: float) -> None:
    from fractions import Fraction

    if n == int(n):
        want = [-math.log(1 - (1 - Fraction(math.exp(lp))) ** int(n)) for lp in log_p.tolist()]
        torch.testing.assert_close(dco(log_p, n=n), double(want), rtol=1e-9, atol=1e-12)
    assert (dco(log_p, n=n) <= -log_p + 1e-12).all()  # some sample is right at least as often as one


def test_dco_of_one_sample_is_the_cross_entropy() -> None:
    log_p = torch.tensor([-1e4, -100.0, -80.0, -3.0, -1e-3, 0.0])
    torch.testing.assert_close(dco(log_p, n=1), -log_p, atol=1e-12, rtol=1e-6)


@few
@given(tensors(5, numbers=st.floats(-200, -1e-3)), st.sampled_from([1.0, 2.0, 16.0]))
def test_dco_weighs_the_gradient_of_the_cross_entropy(log_p: Tensor, n: float) -> None:
    factor = dco_factor(log_p, n=n)
    p = log_p.exp()
    ours = n * (1 - p) ** (n - 1) * p / -torch.expm1(n * torch.log1p(-p))
    torch.testing.assert_close(factor[log_p > -30], ours[log_p > -30], rtol=1e-6, atol=1e-12)
    assert ((factor >= -1e-12) & (factor <= 1 + 1e-12)).all()
    assert (factor[log_p < -40] > 0.999).all()
    assert not factor.requires_grad


def test_dco_factor_of_the_case() -> None:
    known = case("dco")
    factor = dco_factor(double(known["inputs"]["student"]), n=known["params"]["n"])
    torch.testing.assert_close(factor, double(known["factor"]), rtol=1e-6, atol=0)


def test_dco_by_hand() -> None:
    assert dco(torch.tensor([math.log(0.5)]), n=2).item() == pytest.approx(-math.log(0.75))
    assert dco_factor(torch.tensor([math.log(0.5)]), n=2).item() == pytest.approx(2 / 3)
    with pytest.raises(SettingError, match="n=0"):
        dco(torch.zeros(1), n=0)


# --- calibration --------------------------------------------------------------------------------------------------


def test_correctness_aware_is_the_mean_of_right_and_wrong() -> None:
    s, y = normal(50, 4), torch.arange(50) % 4
    error = correctness_aware(s, y, balance=False)
    right = s.argmax(1) == y
    torch.testing.assert_close(correctness_aware(s, y).mean(), (error[right].mean() + error[~right].mean()) / 2)


def test_correctness_aware_by_hand() -> None:
    s = double([[2.0, 0.0], [0.0, 0.0]])
    sure = 1 / (1 + math.exp(-2))
    y = torch.tensor([0, 1])  # of equal logits the first is the choice
    torch.testing.assert_close(correctness_aware(s, y), double([(1 - sure) ** 2, 0.25]))
    torch.testing.assert_close(correctness_aware(s, torch.tensor([0, 0])), double([(1 - sure) ** 2, 0.25]))


# --- bias loss ----------------------------------------------------------------------------------------------------


def test_bias_weights_grow_with_the_variance_from_bound_to_bound() -> None:
    features = normal(20, 3, 4, 4) * torch.linspace(0.1, 2, 20, dtype=torch.float64).view(-1, 1, 1, 1)
    variance = feature_variance(features.requires_grad_())
    torch.testing.assert_close(variance, features.detach().flatten(1).var(1))
    weights = bias_weight(variance)
    assert not weights.requires_grad
    assert weights.min().item() == pytest.approx(0.7)
    assert weights.max().item() == pytest.approx(math.exp(0.3) - 0.3)
    assert torch.equal(weights.argsort(), variance.argsort())


def test_bias_weights_from_a_lower_lowest() -> None:
    weights = bias_weight(torch.tensor([1.0, 3.0]), lowest=torch.tensor(0.0))
    torch.testing.assert_close(weights, torch.tensor([0.15, 0.45]).exp() - 0.3)


@pytest.mark.parametrize("lowest", [None, torch.tensor(0.0)])
def test_bias_weights_without_a_range(lowest: Tensor | None) -> None:
    torch.testing.assert_close(bias_weight(torch.ones(3), lowest=lowest), torch.full((3,), 0.7))
    torch.testing.assert_close(bias_weight(torch.ones(1), lowest=lowest), torch.full((1,), 0.7))
    assert bias_weight(torch.tensor([1.0, 1.0 + 1e-6]), lowest=lowest).isfinite().all()
    with pytest.raises(ShapeError, match="more than one number"):
        feature_variance(torch.zeros(3, 1))


# --- several branches ---------------------------------------------------------------------------------------------


@few
@given(batches())
def test_equal_branches_have_no_lag(batch: tuple[Tensor, Tensor]) -> None:
    s, y = batch
    torch.testing.assert_close(tri_bce(torch.stack([s, s, s]), y), cross_entropy(s, y), rtol=1e-9, atol=1e-9)


def test_one_logit_is_two_classes() -> None:
    z, y = normal(2, 6), torch.tensor([0, 1, 1, 0, 1, 0])
    two = torch.stack([torch.zeros_like(z), z], -1)
    torch.testing.assert_close(tri_bce(z, y.double()), tri_bce(two, y))
    torch.testing.assert_close(tri_bce(two, one_hot(y, 2, torch.float64)), tri_bce(two, y))


def test_detached_lags_give_less_gradient_and_the_same_value() -> None:
    z, y = normal(2, 6).requires_grad_(), torch.tensor([0.0, 1, 1, 0, 1, 0]).double()
    values = [tri_bce(z, y, detach=detach).mean() for detach in (False, True)]
    torch.testing.assert_close(*values)
    coupled, weighted = (torch.autograd.grad(value, z)[0] for value in values)
    assert not torch.allclose(coupled, weighted)
    each = torch.nn.functional.binary_cross_entropy_with_logits
    lag = [(each(row, y) - each(z.mean(0), y)).relu().detach() for row in z]
    want = torch.autograd.grad(each(z.mean(0), y) + sum(w * each(row, y) for w, row in zip(lag, z, strict=True)), z)[0]
    torch.testing.assert_close(weighted, want)
