"""What is true of every loss of rows. A new loss joins by an entry in `tests.strategies.LOSSES`."""

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import limbeck.losses
from limbeck.data import UNLABELLED
from limbeck.errors import ShapeError
from limbeck.losses import Chunked
from tests.strategies import LOSSES, OTHERS, Loss, batches, few, losses, normal

fewer = settings(few, max_examples=10)  # of each of the many losses


def those(**flags: object) -> pytest.MarkDecorator:
    chosen = {
        name: loss for name, loss in LOSSES.items() if all(getattr(loss, flag) == is_ for flag, is_ in flags.items())
    }
    return pytest.mark.parametrize("loss", chosen.values(), ids=chosen)


def value_and_gradient(loss: Loss, student: Tensor, teacher: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss.call(student, teacher, y)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach(), gradient


def generic(loss: Loss, b: int = 4, c: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A batch without ties or zeros."""
    shape = (b, c, 2, 2) if loss.kind == "maps" else (b, c)
    return normal(*shape), normal(*shape, seed=1), torch.tensor([c - 1, 0, UNLABELLED, 1])[:b]


def test_every_public_function_has_joined() -> None:
    assert {name.split("/")[0] for name in LOSSES} | OTHERS == set(limbeck.losses.__all__)


def test_whatever_gives_one_number_per_row_is_public() -> None:
    found = set()
    for part in pkgutil.iter_modules(limbeck.losses.__path__, "limbeck.losses."):
        for name, function in inspect.getmembers(importlib.import_module(part.name), inspect.isfunction):
            if re.fullmatch(r"Float\[Tensor, .[* ]b.\]", function.__annotations__.get("return", "")):
                found.add(name)
    assert found > {"kl", "mse", "dist"}
    assert found <= set(limbeck.losses.__all__)


def test_every_loss_is_measured_and_says_why_it_is_slow() -> None:
    """A new loss: python -m bench.losses --only its_name --out bench/results/losses.json"""
    rows = json.loads((Path(__file__).parents[2] / "bench/results/losses.json").read_text())["rows"]
    assert {row["loss"].split("/")[0] for row in rows} == {name.split("/")[0] for name in LOSSES}
    assert [row["loss"] for row in rows if max(row["time"], row["memory"]) > 3 and not row["reason"]] == []


def test_shapes_are_checked_in_these_tests_only() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="same classes"):
        limbeck.losses.kl(torch.zeros(2, 3), torch.zeros(2, 4))


# --- numerically safe ---------------------------------------------------------------------------------------------


@those()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@few
@given(st.data())
def test_one_finite_number_per_row_and_a_finite_gradient(dtype: torch.dtype, loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    value, gradient = value_and_gradient(loss, student.to(dtype), teacher.to(dtype), y)
    assert value.shape == (len(student),)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@those()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("c", [2, 100_000])
def test_two_classes_and_many(c: int, b: int, dtype: torch.dtype, loss: Loss) -> None:
    student, teacher, y = generic(loss, b, c)
    for size in (1, 1e4):
        value, gradient = value_and_gradient(
            loss, (size * student).clamp(-1e4, 1e4).to(dtype), (size * teacher).clamp(-1e4, 1e4).to(dtype), y
        )
        assert value.shape == (b,)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@those()
@pytest.mark.parametrize("c", [2, 100_000])
def test_single_precision_is_near_double(c: int, loss: Loss) -> None:
    student, teacher, y = generic(loss, 4, c)
    near, gradient = value_and_gradient(loss, student.float(), teacher.float(), y)
    value, exact = value_and_gradient(loss, student.float().double(), teacher.float().double(), y)
    torch.testing.assert_close(near.double(), value, rtol=1e-4, atol=1e-5)
    if not loss.jumps:
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-3, atol=1e-5)


@those()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@fewer
@given(st.data())
def test_half_precision_is_computed_in_single(dtype: torch.dtype, loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    student, teacher = student.to(dtype), teacher.to(dtype)
    value = loss.call(student, teacher, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss.call(student.float(), teacher.float(), y), rtol=1e-6, atol=0)


@those()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [torch.zeros_like, torch.ones_like, lambda x: x[:1].expand_as(x).clone()])
@pytest.mark.parametrize("b", [1, 4])
def test_collapsed_students_get_moderate_gradients(b: int, make, dtype: torch.dtype, loss: Loss) -> None:
    """All rows equal: nothing divides by their distance or length, not even to a huge finite number."""
    student, teacher, y = generic(loss, b)
    value, gradient = value_and_gradient(loss, make(student).to(dtype), teacher.to(dtype), y)
    assert value.isfinite().all()
    assert gradient.abs().max() < 100


@those(labels=True)
@few
@given(st.data())
def test_rows_without_a_label_are_zero_and_change_nothing(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    value, gradient = value_and_gradient(loss, student, teacher, y)
    known = y != UNLABELLED
    assert not value[~known].any()
    assert not gradient[~known].any()
    if known.any():
        alone = value_and_gradient(loss, student[known], teacher[known], y[known])
        torch.testing.assert_close((value[known], gradient[known]), alone, rtol=1e-9, atol=1e-12)


@those(labels=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@fewer
@given(st.data())
def test_without_any_label_all_is_zero(dtype: torch.dtype, loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    nobody = torch.full_like(y, UNLABELLED)
    for found in value_and_gradient(loss, student.to(dtype), teacher.to(dtype), nobody):
        assert torch.equal(found, torch.zeros_like(found))


# --- what they measure --------------------------------------------------------------------------------------------


@those(divergence=True)
@few
@given(st.data())
def test_nothing_to_learn_from_an_equal_teacher(loss: Loss, data: st.DataObject) -> None:
    student, _, y = data.draw(batches(loss.kind))
    value, gradient = value_and_gradient(loss, student, student, y)
    assert torch.equal(value, torch.zeros(len(student), dtype=student.dtype))
    torch.testing.assert_close(gradient, torch.zeros_like(student), atol=1e-12, rtol=0)


@those(divergence=True)
def test_something_to_learn_from_another_teacher(loss: Loss) -> None:
    student, teacher, y = generic(loss)
    value, gradient = value_and_gradient(loss, student, teacher, y)
    learns = y != UNLABELLED if loss.labels else torch.ones_like(y, dtype=torch.bool)
    assert torch.equal(value > 0, learns)
    assert torch.equal(gradient.abs().flatten(1).amax(1) > 0, learns)


@those(signed=False)
@fewer
@given(st.data())
def test_never_negative(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    assert (loss.call(student, teacher, y) >= -1e-12).all()


@those()
@fewer
@given(st.data())
def test_rows_may_come_in_any_order(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    order = torch.tensor(data.draw(st.permutations(range(len(y)))))
    value, gradient = value_and_gradient(loss, student, teacher, y)
    permuted = value_and_gradient(loss, student[order], teacher[order], y[order])
    torch.testing.assert_close(permuted, (value[order], gradient[order]), rtol=1e-6, atol=1e-9)


@those(kind="logits")
@fewer
@given(st.data(), st.floats(-100, 100))
def test_a_constant_in_the_logits_is_no_matter(loss: Loss, data: st.DataObject, constant: float) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    value = loss.call(student, teacher, y)
    torch.testing.assert_close(loss.call(student + constant, teacher, y), value, rtol=1e-6, atol=1e-8)


def one_by_one(loss: Loss, student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
    return torch.cat([loss.call(student[i : i + 1], teacher[i : i + 1], y[i : i + 1]) for i in range(len(y))])


@those(couples=False)
@fewer
@given(st.data())
def test_rows_do_not_see_each_other(loss: Loss, data: st.DataObject) -> None:
    batch = data.draw(batches(loss.kind))
    torch.testing.assert_close(one_by_one(loss, *batch), loss.call(*batch), rtol=1e-12, atol=1e-12)


@those(couples=True)
def test_rows_see_each_other_where_it_says_so(loss: Loss) -> None:
    assert not torch.allclose(one_by_one(loss, *generic(loss)), loss.call(*generic(loss)), rtol=1e-3)


@those(moving=False)
def test_gradient_is_the_finite_difference(loss: Loss) -> None:
    student, teacher, y = generic(loss)
    assert torch.autograd.gradcheck(lambda s: loss.call(s, teacher, y), student.requires_grad_())


@those(couples=False)
@fewer
@given(st.data())
def test_chunked_gives_the_same_numbers(loss: Loss, data: st.DataObject) -> None:
    student, teacher, y = data.draw(batches(loss.kind))
    pieces = data.draw(st.integers(1, len(y) + 1))
    chunked = Loss(loss.kind, Chunked(loss.call, pieces))
    plain = value_and_gradient(loss, student, teacher, y)
    torch.testing.assert_close(value_and_gradient(chunked, student, teacher, y), plain, rtol=1e-12, atol=1e-12)
