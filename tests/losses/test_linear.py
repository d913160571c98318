"""Losses of a head's logits: the same numbers as with the logits, without them."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck import losses
from limbeck.errors import SettingError, ShapeError
from limbeck.losses import Linear, linear_cross_entropy, linear_divergence
from limbeck.signals import Head
from tests.strategies import LOSSES, Loss, few, normal

ROWS, CLASSES = 11, 7
APART = {name: loss for name, loss in LOSSES.items() if loss.kind == "logits" and not loss.couples}


def a_head(seed: int, width: int, dtype: torch.dtype, bias: bool, softcap: float | None) -> tuple[Tensor, Head]:
    hidden, weight = (normal(n, width, seed=seed + i).to(dtype) for i, n in enumerate((ROWS, CLASSES)))
    return hidden, Head(weight, normal(CLASSES, seed=seed + 2).to(dtype) if bias else None, 1.5, softcap)


def gradients(value: Tensor, upstream: Tensor, hidden: Tensor, head: Head) -> list[Tensor]:
    wanted = [each for each in (hidden, head.weight, head.bias) if each is not None]
    return list(torch.autograd.grad(value, wanted, upstream))


@pytest.mark.parametrize("name", APART)
@few
@given(
    tile=st.integers(1, 13),
    group=st.sampled_from([4, 16, 1024]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 3.0]),
    equal=st.booleans(),
    form=st.sampled_from(["head", "logits", "function"]),
)
def test_dense(name: str, tile: int, group: int, bias: bool, softcap: float | None, equal: bool, form: str) -> None:
    loss: Loss = APART[name]
    hidden, head = a_head(0, 5, torch.float32, bias, softcap)
    t_hidden, t_head = a_head(9, 3, torch.float32, bias, softcap)
    for each in (hidden, head.weight, *([head.bias] if bias else [])):
        each.requires_grad_()
    y = torch.arange(ROWS) % CLASSES
    if loss.labels:
        y[::4] = -1
    upstream = torch.full((ROWS,), 0.25) if equal else normal(ROWS, seed=5).float()
    told = t_head(t_hidden)
    teacher = {"head": Linear(t_hidden, t_head), "logits": told, "function": told.__getitem__}[form]
    dense = loss.call(head(hidden), told, y)
    with patch("limbeck.losses.linear.GROUP", group):
        tiled = linear_divergence(loss.call, Linear(hidden, head), teacher, y, tile=tile)
    torch.testing.assert_close(tiled, dense.float(), rtol=1e-5, atol=1e-5)
    for mine, plain in zip(
        gradients(tiled, upstream, hidden, head), gradients(dense, upstream, hidden, head), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5 * max(1.0, float(plain.abs().max())))


def test_every_loss_of_rows_was_among_them() -> None:
    assert {"kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "taid", "total_variation", "symmetric_kl"} <= set(
        APART
    )


def test_weights_count_in_the_gradient() -> None:
    hidden, head = a_head(0, 5, torch.float64, True, None)
    hidden.requires_grad_()
    t_hidden, t_head = a_head(9, 3, torch.float64, False, None)
    weights = normal(ROWS, seed=7).abs()
    student, teacher = Linear(hidden, head), Linear(t_hidden, t_head)
    dense = weights * losses.kl(head(hidden), t_head(t_hidden))
    for tiled in (
        linear_divergence(losses.kl, student, teacher, weights=weights, tile=4),
        weights * linear_divergence(losses.kl, student, teacher, tile=4),
    ):
        torch.testing.assert_close(tiled, dense)
        torch.testing.assert_close(
            *(torch.autograd.grad(each.mean(), hidden, retain_graph=True) for each in (tiled, dense))
        )


def test_a_second_backward_pass_gives_the_same() -> None:
    hidden, head = a_head(0, 5, torch.float64, False, None)
    hidden.requires_grad_()
    loss = linear_divergence(losses.kl, Linear(hidden, head), normal(ROWS, CLASSES, seed=3), tile=4).mean()
    (first,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (again,) = torch.autograd.grad(loss, hidden)
    torch.testing.assert_close(first, again)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    hidden, head = a_head(0, 5, torch.float64, False, None)
    hidden.requires_grad_()
    loss = linear_divergence(losses.kl, Linear(hidden, head), normal(ROWS, CLASSES, seed=3), tile=4).mean()
    with pytest.raises(SettingError, match="no second derivative"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_gradient_is_the_finite_difference() -> None:
    hidden, head = a_head(0, 4, torch.float64, True, 4.0)
    inputs = tuple(each.requires_grad_() for each in (hidden, head.weight, head.bias))
    teacher = normal(ROWS, CLASSES, seed=3)

    def value(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_divergence(losses.jsd, Linear(h, Head(w, b, 1.0, 4.0)), teacher, tile=3)

    assert torch.autograd.gradcheck(value, inputs)


def test_in_half_precision_the_sums_are_single() -> None:
    hidden, head = a_head(0, 5, torch.bfloat16, False, None)
    t_hidden, t_head = a_head(9, 3, torch.bfloat16, False, None)
    hidden.requires_grad_()
    head.weight.requires_grad_()
    with patch("limbeck.losses.linear.PART", 2 * 4 * 5):  # two classes of the head's gradient
        value = linear_divergence(losses.kl, Linear(hidden, head), Linear(t_hidden, t_head), tile=2)
    assert value.dtype == torch.float32
    value.sum().backward()
    dense = losses.kl(head(hidden), t_head(t_hidden))
    torch.testing.assert_close(value, dense)
    (plain,) = torch.autograd.grad(dense.sum(), head.weight)
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(head.weight.grad, plain, rtol=0.02, atol=0.02)


def test_no_row_and_no_gradient() -> None:
    hidden, head = a_head(0, 5, torch.float32, False, None)
    head.weight.requires_grad_()
    none = linear_divergence(losses.kl, Linear(hidden[:0], head), torch.zeros(0, CLASSES))
    none.sum().backward()
    assert none.shape == (0,)
    assert float(head.weight.grad.abs().sum()) == 0  # type: ignore[union-attr]
    with torch.no_grad():
        assert not linear_divergence(losses.kl, Linear(hidden, head), torch.zeros(ROWS, CLASSES)).requires_grad


def test_a_frozen_student_costs_no_gradient_and_the_teacher_gets_none() -> None:
    hidden, head = a_head(0, 5, torch.float32, False, None)
    t_hidden, t_head = a_head(9, 3, torch.float32, False, None)
    hidden.requires_grad_()
    t_hidden.requires_grad_()
    linear_divergence(losses.kl, Linear(hidden, head), Linear(t_hidden, t_head)).mean().backward()
    assert hidden.grad is not None
    assert t_hidden.grad is head.weight.grad is None


def test_cross_entropy_skips_what_has_no_label() -> None:
    hidden, head = a_head(0, 5, torch.float64, True, None)
    hidden.requires_grad_()
    y = torch.tensor([-1, 0, 6, -1, *[2] * (ROWS - 4)])
    for target in (y, normal(ROWS, CLASSES, seed=4).softmax(-1)):
        mine, plain = (
            linear_cross_entropy(Linear(hidden, head), target, tile=3),
            losses.cross_entropy(head(hidden), target),
        )
        torch.testing.assert_close(mine, plain)
        torch.testing.assert_close(*(torch.autograd.grad(each.mean(), hidden)[0] for each in (mine, plain)))


def test_autocast_as_dense() -> None:
    hidden, head = a_head(0, 5, torch.float32, False, None)
    t_hidden, t_head = a_head(9, 3, torch.float32, False, None)
    hidden.requires_grad_()
    found = []
    for tiled in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            student, teacher = Linear(hidden, head), Linear(t_hidden, t_head)
            value = linear_divergence(losses.kl, student, teacher, tile=4) if tiled else losses.kl(
                head(hidden), t_head(t_hidden))  # fmt: skip
        found.append((value, *torch.autograd.grad((value * torch.arange(ROWS)).sum(), hidden)))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)


def test_rows_that_do_not_fit_are_named() -> None:
    hidden, head = a_head(0, 5, torch.float32, False, None)
    with pytest.raises(ShapeError, match=r"11 rows, what goes with it \[10\]"):
        linear_divergence(losses.kl, Linear(hidden, head), torch.zeros(ROWS - 1, CLASSES))
    with pytest.raises(ShapeError, match="logits"):
        linear_divergence(losses.kl, Linear(hidden, head), torch.zeros(ROWS, CLASSES + 1))
