import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck import AdamW, Run, registry
from limbeck.procedures.guided import best_alpha, ridge_generation, ridge_generations, with_best_alpha
from limbeck.targets import mix
from tests.pipelines import digits, net
from tests.strategies import few, normal


def toy() -> tuple[Tensor, Tensor, Tensor]:
    """The authors' setting with our own noise: a noisy sinusoid, an RBF kernel with gamma 80."""
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    true = (2 * torch.pi * x).sin()[:, None]
    kernel = (-80 * (x[:, None] - x[None]).square()).exp()
    return kernel, true + 0.5 * normal(11, 1), true


@few
@given(st.floats(0.0, 1.0), st.integers(1, 8))
def test_iterated_fit_is_the_closed_form(alpha: float, steps: int) -> None:
    kernel, y, _ = toy()
    fits = ridge_generations(kernel, y, ridge=0.2, alpha=alpha, steps=steps)
    for i, fit in enumerate(fits):
        once = ridge_generation(kernel, y, ridge=0.2, alpha=alpha, step=i + 1)
        torch.testing.assert_close(fit, once, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.25, 0.6, 1.0])
def test_limit_is_the_ordinary_fit_with_a_larger_ridge(alpha: float) -> None:
    kernel, y, _ = toy()
    limit = ridge_generation(kernel, y, ridge=0.2, alpha=alpha, step=None)
    ordinary = torch.linalg.solve(kernel + 0.2 / alpha * torch.eye(11).double(), kernel @ y)
    torch.testing.assert_close(limit, ordinary, atol=1e-12, rtol=1e-12)
    late = ridge_generations(kernel, y, ridge=0.2, alpha=alpha, steps=300)[-1]
    torch.testing.assert_close(late, limit, atol=1e-10, rtol=1e-10)


def test_without_truth_it_shrinks_to_nothing_and_with_truth_it_does_not() -> None:
    kernel, y, true = toy()
    none = ridge_generations(kernel, y, ridge=0.2, alpha=0.0, steps=400)
    size = none.square().sum((1, 2))
    assert (size.diff() < 0).all()
    assert size[-1] < 1e-6 * size[0]
    assert not ridge_generation(kernel, y, ridge=0.2, alpha=0.0, step=None).any()
    guided = ridge_generations(kernel, y, ridge=0.2, alpha=0.25, steps=40)
    assert guided[-1].square().sum() > 0.25 * size[0]
    error = (none - true).square().mean((1, 2))
    assert error.argmin() not in (0, 399)  # U-shaped, so that some self-distillation helps
    flat = (guided - true).square().mean((1, 2))
    assert flat[-1] < error[39]


def test_best_alpha_is_the_best_of_a_grid() -> None:
    truth, past, y = normal(20, 3), normal(20, 3, seed=1), normal(20, 3, seed=2)
    alpha = best_alpha(truth, past, y)
    grid = torch.linspace(0, 1, 1001).double()
    error = torch.stack([(mix(past, truth, float(a)) - y).square().sum() for a in grid])
    assert abs(alpha - grid[error.argmin()]) <= 1e-3
    assert best_alpha(truth, past, truth + (truth - past)) == 1.0
    assert best_alpha(truth, past, past - (truth - past)) == 0.0
    assert best_alpha(truth, truth, y) == 1.0


def test_networks_get_an_alpha_and_train_with_it() -> None:
    data, test = digits(128)
    run = Run(student=net(1), teacher=net(2), data=data, method=registry.make("CE()"), epochs=1, optimizer=AdamW(1e-3))
    whole = with_best_alpha(run, test)
    assert whole.students[0].module is run.student
    assert "Brier()" in repr(whole.method)
    assert registry.read(repr(whole.method)) == whole.method
