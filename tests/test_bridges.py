import pytest
import torch
from torch import Tensor, nn

from limbeck.bridges import bridge
from limbeck.errors import ShapeError


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 5), (2, 7)),
        ((2, 9, 5), (2, 9, 7)),
        ((2, 3, 8, 8), (2, 6, 8, 8)),
        ((2, 3, 8, 8), (2, 6, 4, 4)),
        ((2, 3, 8, 6), (2, 6, 5, 6)),
        ((2, 3, 4, 4), (2, 6, 8, 8)),
        ((2, 3, 4, 8), (2, 6, 8, 4)),
        ((2, 5), (2, 6, 4, 4)),
        ((2, 5), (2, 9, 7)),
    ],
)
def test_the_teachers_shape_comes_out_and_gradients_go_in(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    module = bridge(student, teacher)
    x = torch.randn(3, *student[1:], requires_grad=True)
    out: Tensor = module(x)
    assert out.shape == (3, *teacher[1:])
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().flatten(1).amax(1).min() > 0
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_the_regressor_of_the_paper() -> None:
    """Romero et al. 2015, section 2.2: without padding, so that the kernel decides the size; 1 x 1 for equal maps."""
    shrink, same = bridge((2, 3, 8, 6), (2, 6, 5, 6)), bridge((2, 3, 8, 8), (2, 6, 8, 8))
    assert isinstance(shrink, nn.Conv2d)
    assert isinstance(same, nn.Conv2d)
    assert (shrink.kernel_size, shrink.padding, shrink.stride) == ((4, 1), (0, 0), (1, 1))
    assert same.kernel_size == (1, 1)


def test_tokens_are_mapped_alike() -> None:
    x, module = torch.randn(2, 4, 5), bridge((2, 4, 5), (2, 4, 3))
    torch.testing.assert_close(module(x.flip(1)), module(x).flip(1))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((2, 3, 8, 8), (2, 5)), ((2, 9, 5), (2, 8, 5)), ((2, 9, 5), (2, 3, 4, 4)), ((2,), (2,))],
)
def test_no_bridge_says_what_to_tap(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="maps, tokens or vectors") as error:
        bridge(student, teacher)
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)
