"""What is true of every loss of rows. A new loss joins by an entry in `tests.strategies.LOSSES`."""

import jaxtyping
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import limbeck.losses
from limbeck.errors import ShapeError
from limbeck.losses import Chunked
from tests.strategies import LOSSES, OTHERS, Loss, batches, few, losses, normal

every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
divergences = {name: loss for name, loss in LOSSES.items() if loss.divergence}
alone = {name: loss for name, loss in LOSSES.items() if not loss.couples}


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss.call(student, teacher, y)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach(), gradient


def generic(loss: Loss, b: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A batch without ties or zeros."""
    shape = (b, 3, 2, 2) if loss.kind == "maps" else (b, 3)
    return normal(*shape), normal(*shape, seed=1), torch.tensor([0, 2, -1, 1])[:b]


def test_every_public_function_has_joined() -> None:
    assert {name.split("/")[0] for name in LOSSES} | OTHERS == set(limbeck.losses.__all__)


def test_shapes_are_checked_in_these_tests_only() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="same classes"):
        limbeck.losses.kl(torch.zeros(2, 3), torch.zeros(2, 4))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@few
@given(st.data())
def test_one_finite_number_per_row_and_a_finite_gradient(dtype: torch.dtype, loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    value, gradient = value_and_gradient(loss, student.to(dtype), teacher.to(dtype), y)
    assert value.shape == (len(student),)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [torch.zeros_like, torch.ones_like, lambda x: x[:1].expand_as(x).clone()])
@pytest.mark.parametrize("b", [1, 4])
def test_collapsed_students_get_moderate_gradients(b: int, make, dtype: torch.dtype, loss: Loss) -> None:
    """All rows equal: nothing divides by their distance or length, not even to a huge finite number."""
    student, teacher, y = generic(loss, b)
    value, gradient = value_and_gradient(loss, make(student).to(dtype), teacher.to(dtype), y)
    assert value.isfinite().all()
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("loss", divergences.values(), ids=divergences)
@few
@given(st.data())
def test_nothing_to_learn_from_an_equal_teacher(loss: Loss, data: st.DataObject) -> None:
    student, _, y = data.draw(batches(loss.kind))
    value, gradient = value_and_gradient(loss, student, student, y)
    assert torch.equal(value, torch.zeros(len(student), dtype=student.dtype))
    torch.testing.assert_close(gradient, torch.zeros_like(student), atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", divergences.values(), ids=divergences)
def test_something_to_learn_from_another_teacher(loss: Loss) -> None:
    value, gradient = value_and_gradient(loss, *generic(loss))
    assert (value > 0).all()
    assert (gradient.abs().flatten(1).amax(1) > 0).all()


@every
@few
@given(st.data())
def test_never_negative(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    assert (loss.call(student, teacher, y) >= -1e-12).all()


@every
@few
@given(st.data())
def test_rows_may_come_in_any_order(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    order = torch.tensor(data.draw(st.permutations(range(len(y)))))
    value, gradient = value_and_gradient(loss, student, teacher, y)
    permuted = value_and_gradient(loss, student[order], teacher[order], y[order])
    torch.testing.assert_close(permuted, (value[order], gradient[order]), rtol=1e-9, atol=1e-9)


@every
@few
@given(st.data())
def test_rows_see_each_other_only_where_it_says_so(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    one_by_one = [loss.call(student[i : i + 1], teacher[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    if not loss.couples:
        torch.testing.assert_close(torch.cat(one_by_one), loss.call(student, teacher, y), rtol=1e-12, atol=1e-12)
    else:
        assert not torch.cat(one_by_one).any()  # one row has no relations


@every
def test_gradient_is_the_finite_difference(loss: Loss) -> None:
    student, teacher, y = generic(loss)
    assert torch.autograd.gradcheck(lambda s: loss.call(s, teacher, y), student.requires_grad_())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near(dtype: torch.dtype, loss: Loss) -> None:
    student, teacher, y = generic(loss)
    near = loss.call(student.to(dtype), teacher.to(dtype), y)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(near.double(), loss.call(student, teacher, y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("loss", alone.values(), ids=alone)
@few
@given(st.data())
def test_chunked_gives_the_same_numbers(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    pieces = data.draw(st.integers(1, len(y) + 1))
    chunked = Loss(loss.kind, Chunked(loss.call, pieces))
    plain = value_and_gradient(loss, student, teacher, y)
    torch.testing.assert_close(value_and_gradient(chunked, student, teacher, y), plain, rtol=1e-12, atol=1e-12)
