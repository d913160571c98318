import math

import pytest
import torch

from limbeck import CE, Run, registry
from limbeck.blocks.soft import Brier, BrierKD, SoftCE, SymmetricKL, WeightNorms
from limbeck.data import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.logit import kl
from tests.pipelines import digits, net, parts, step_of

NAMES = [
    "kd_data_pruning",
    "takd",
    "even_your_teacher",
    "random_teachers",
    "ssld",
    "meal_v2",
    "tgeo_kd",
    "cell_sorting",
]


@pytest.mark.parametrize("name", NAMES)
def test_methods_print_as_code_and_learn(name: str) -> None:
    found = registry.find(name)
    method = found(**found.example)
    assert registry.read(repr(method)) == method
    data, _ = digits()
    optimizer = registry.read("AdamW(0.005, weight_decay=0.0)")
    rows = Run(student=net(1), teacher=net(2), data=data, method=method, optimizer=optimizer, epochs=4).fit()
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("name", ["random_teachers", "ssld", "meal_v2", "cell_sorting"])
def test_methods_without_labels_need_none(name: str) -> None:
    data, _ = digits()
    Run(student=net(1), teacher=net(2), data=data.x, method=registry.make(name), epochs=1).fit()


def test_soft_ce_averages_probabilities_not_logits() -> None:
    data, _ = digits()
    teachers = [net(2), net(3)]
    run = Run(student=net(1), teacher=teachers, data=data, method=SoftCE(2.0, 0.1))
    step = step_of(run)
    soft = torch.stack([teacher("x").logits.div(0.1).softmax(-1) for teacher in step.teachers]).mean(0)
    value = run.method.loss(step, None)["soft"]
    torch.testing.assert_close(value, -(soft * (step.student("x").logits / 2).log_softmax(-1)).sum(-1))
    with pytest.raises(SettingError, match="no teacher"):
        Run(student=net(1), data=data, method=SoftCE()).setup()


def test_soft_ce_has_the_gradient_of_kl() -> None:
    data, _ = digits()
    gradients = []
    for method in (SoftCE(), registry.make("KL(1.0)")):
        run = Run(student=net(1), teacher=net(2), data=data, method=method)
        (loss,) = parts(run, step_of(run)).values()
        gradients.append(torch.autograd.grad(loss, list(run.students[0].parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_brier_terms_are_the_authors_mse() -> None:
    data, _ = digits()
    run = Run(student=net(1), teacher=net(2), data=data, method=registry.make("even_your_teacher", alpha=0.25))
    step = step_of(run)
    p, q = step.student("x").logits.softmax(-1), step.teacher("x").logits.softmax(-1)
    truth = torch.nn.functional.one_hot(step.y, 10).float()
    mse = torch.nn.functional.mse_loss
    norms = sum(torch.norm(weight) for weight in run.students[0].parameters())
    expected = 0.25 * mse(p, truth) + 0.75 * mse(p, q) + 1e-4 * norms
    torch.testing.assert_close(torch.stack(list(parts(run, step).values())).sum(), expected)


def test_mixed_brier_pulls_to_the_mixed_target() -> None:
    """alpha |f - Y|^2 + (1 - alpha) |f - Y'|^2 and |f - (alpha Y + (1 - alpha) Y')|^2 have one gradient."""
    data, _ = digits()
    run = Run(student=net(1), teacher=net(2), data=data, method=0.3 * Brier() + 0.7 * BrierKD())
    step = step_of(run)
    logits = step.student("x").logits
    weights = list(run.students[0].parameters())
    both = torch.autograd.grad(sum(parts(run, step).values()), weights, retain_graph=True)
    target = 0.3 * torch.nn.functional.one_hot(step.y, 10) + 0.7 * step.teacher("x").logits.softmax(-1)
    one = torch.autograd.grad((logits.softmax(-1) - target).square().mean(), weights)
    for a, b in zip(both, one, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_labels_that_are_not_there_teach_nothing() -> None:
    data, _ = digits()
    assert data.y is not None
    data.y = torch.full_like(data.y, UNLABELLED)
    run = Run(student=net(1), teacher=net(2), data=data, method=Brier() + CE())
    assert not any(part.item() for part in parts(run, step_of(run)).values())


def test_weight_norms_have_a_gradient_at_zero() -> None:
    data, _ = digits()
    student = net(1)
    for p in student.parameters():
        p.data.zero_()
    run = Run(student=student, data=data, method=WeightNorms())
    (loss,) = parts(run, step_of(run)).values()
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


def test_symmetric_kl_is_zero_at_the_teacher() -> None:
    data, _ = digits()
    same = net(1)
    run = Run(student=same, teacher=net(1), data=data, method=SymmetricKL())
    assert parts(run, step_of(run))["symmetric_kl"] == 0
    far = Run(student=same, teacher=net(2), data=data, method=SymmetricKL(0.0))
    step = step_of(far)
    s, t = step.student("x").logits, step.teacher("x").logits
    torch.testing.assert_close(parts(far, step)["symmetric_kl"], (kl(s, t) + kl(t, s)).mean() / 2)
    assert math.isfinite(parts(far, step)["symmetric_kl"].item())


class Scaled(torch.nn.Module):
    """Logits of any size and type."""

    def __init__(self, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear, self.scale, self.dtype = torch.nn.Linear(64, 10), scale, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x.flatten(1)) * self.scale).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3e4])
@pytest.mark.parametrize("name", ["even_your_teacher", "random_teachers", "ssld", "meal_v2", "tgeo_kd"])
def test_finite_for_logits_of_any_size_and_half_types(name: str, scale: float, dtype: torch.dtype) -> None:
    data, _ = digits(64)
    method = registry.find(name)
    run = Run(student=Scaled(scale, dtype), teacher=Scaled(scale, dtype), data=data, method=method(**method.example))
    value = torch.stack(list(parts(run, step_of(run, 32)).values())).sum()
    gradients = torch.autograd.grad(value, list(run.students[0].parameters()))
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
