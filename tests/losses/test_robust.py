import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy
from limbeck.losses.robust import aldr, aldr_lambda, comp_sum, ldr, margin_shift, smooth_adv_comp_sum, unit_scores
from tests.losses.test_label import batches, case, double
from tests.strategies import few, normal

y = torch.tensor([0, 2, 1, 2])


def test_the_members_of_the_family() -> None:
    s = normal(4, 3)
    p = s.softmax(-1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(comp_sum(s, y, tau=0.0), 1 / p - 1)
    torch.testing.assert_close(comp_sum(s, y, tau=1.0), -p.log())
    torch.testing.assert_close(comp_sum(s, y, tau=1.7), (1 - p**0.7) / 0.7)
    torch.testing.assert_close(comp_sum(s, y, tau=2.0), 1 - p)
    for near in (1 - 2e-6, 1 + 2e-6, 1 + 1e-8):
        torch.testing.assert_close(comp_sum(s, y, tau=near), -p.log(), rtol=1e-4, atol=0)
    with pytest.raises(SettingError, match="tau"):
        comp_sum(s, y, tau=-0.1)


@pytest.mark.parametrize("tau", case("comp-sum")["extra"])
def test_the_members_of_the_case(tau: str) -> None:
    known = case("comp-sum")
    rows = comp_sum(double(known["inputs"]["student"]), torch.tensor(known["inputs"]["target"]), tau=float(tau))
    torch.testing.assert_close(rows, double(known["extra"][tau]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.7, 2.0])
def test_comp_sum_weighs_the_gradient_of_the_cross_entropy_by_a_power(tau: float) -> None:
    s = normal(4, 3).requires_grad_()
    (ours,) = torch.autograd.grad(comp_sum(s, y, tau=tau).sum(), s)
    ce = cross_entropy(s, y)
    (plain,) = torch.autograd.grad(ce.sum(), s)
    torch.testing.assert_close(ours, (-ce.detach()).exp().pow(tau - 1)[:, None] * plain)


@few
@given(batches(), st.sampled_from([0.0, 0.5, 1.0, 1.7, 2.0]))
def test_sure_targets_are_labels(batch: tuple[Tensor, Tensor], tau: float) -> None:
    s, labels = batch
    labels = labels.clamp(min=0)
    sure = torch.nn.functional.one_hot(labels, s.shape[1]).to(s)
    torch.testing.assert_close(comp_sum(s, sure, tau=tau), comp_sum(s, labels, tau=tau), rtol=1e-9, atol=1e-9)


def test_a_shift_of_all_logits_moves_no_margin() -> None:
    s = normal(4, 3).requires_grad_()
    torch.testing.assert_close(margin_shift(s, s + 5, y), torch.zeros(4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(margin_shift(s, s.detach(), y).sum(), s)
    assert not gradient.any()
    # s_0 grows by 3 and s_1 by 4: the margins of label 2 towards them fall by as much
    moved = double([[3.0, 4.0, 0.0]])
    assert margin_shift(torch.zeros_like(moved), moved, y[1:2]).item() == pytest.approx(5)


def test_an_input_that_does_not_move_is_comp_sum() -> None:
    s = normal(4, 3)
    torch.testing.assert_close(smooth_adv_comp_sum(s, s, y, tau=1.7, nu=3.0), comp_sum(s, y, tau=1.7))
    with pytest.raises(SettingError, match="rho"):
        smooth_adv_comp_sum(s, s, y, rho=0.0)


@pytest.mark.parametrize("how", ["l1", "softplus"])
@few
@given(batches())
def test_scores_have_unit_size(how, batch: tuple[Tensor, Tensor]) -> None:
    s, _ = batch
    z = unit_scores(s, how)
    size = z.abs().mean(-1)
    torch.testing.assert_close(size, torch.where(s.abs().mean(-1) > 1e-12, 1.0, size))
    if how == "softplus":
        x = torch.nn.functional.softplus(s.clamp(min=-30))  # where it does not underflow
        plain = (s > -30).all(-1)
        torch.testing.assert_close(z[plain], (x / x.mean(-1, keepdim=True))[plain], rtol=1e-9, atol=1e-12)
        assert (size > 0.99).all()
    else:
        torch.testing.assert_close(unit_scores(3 * s, how)[size > 0.9], z[size > 0.9])


@few
@given(batches(), st.sampled_from([0.1, 1.0, 10.0]))
def test_ldr_is_the_worst_distribution_over_the_classes(batch: tuple[Tensor, Tensor], lam: float) -> None:
    s, labels = batch
    labels = labels.clamp(min=0)
    z, c = unit_scores(s, "softplus"), s.shape[1]
    d = z - z.gather(1, labels[:, None]) + 0.1 * (torch.arange(c) != labels[:, None]).double()

    def at(p: Tensor) -> Tensor:
        return (p * d).sum(-1) - lam * (torch.xlogy(p, p).sum(-1) + math.log(c))

    value = ldr(s, labels, lam=lam)
    torch.testing.assert_close(value, at((d / lam).softmax(-1)), rtol=1e-6, atol=1e-9)
    for p in (torch.full_like(d, 1 / c), s.softmax(-1), torch.eye(c, dtype=d.dtype)[labels]):
        assert (value >= at(p) - 1e-9).all()


def test_ldr_from_the_largest_margin_to_the_mean() -> None:
    s = double([[1.0, 3.0, 2.0]])
    d = double([0.0, 1.0 + 0.1, 0.5 + 0.1])
    assert ldr(s, y[:1], lam=1e-4, scores="l1").item() == pytest.approx(d.max().item(), abs=1e-3)
    assert ldr(s, y[:1], lam=1e6, scores="l1").item() == pytest.approx(d.mean().item(), abs=1e-5)
    want = 0.5 * math.log((1 + math.exp(2.2) + math.exp(1.2)) / 3)
    assert ldr(s, y[:1], lam=0.5, scores="l1").item() == pytest.approx(want)
    with pytest.raises(SettingError, match="lam"):
        ldr(s, y[:1], lam=0.0)


def test_aldr_at_lam0_is_ldr() -> None:
    s = normal(4, 3)
    torch.testing.assert_close(
        aldr(s, y, torch.full((4,), 2.0, dtype=s.dtype), lam0=2.0), ldr(s, y, lam=2.0, scores="l1")
    )


def test_aldr_lambdas() -> None:
    known = case("aldr")
    s, before = double(known["inputs"]["student"]), double(known["inputs"]["lam_prev"])
    lam = aldr_lambda(s.requires_grad_(), before, lam0=1.0)
    torch.testing.assert_close(lam, double(known["extra"]["lam_new"]), rtol=1e-9, atol=0)
    assert not lam.requires_grad
    assert aldr_lambda(torch.ones(1, 3), torch.ones(1)).item() == pytest.approx(10)  # unsure: lam0
    assert aldr_lambda(double([[0.0, 0, 9e3]]), double([1e-3])).item() == pytest.approx(5, abs=1e-2)  # 1 - 1 / alpha
    with pytest.raises(SettingError, match="alpha"):
        aldr_lambda(torch.ones(1, 3), torch.ones(1), alpha=1.0)
