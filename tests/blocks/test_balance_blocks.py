from typing import Any

import pytest
import torch

from limbeck import CE, KL, SGD, GradMag, Run
from limbeck.errors import SettingError
from limbeck.objective import as_terms
from limbeck.schedules import Clock
from limbeck.step import Step
from tests.conformance import Small, images, seeded, trained


def run_of(method: Any, **fields: Any) -> Run:
    given = {"student": seeded(0, Small, 4), "teacher": seeded(1, Small, 4), "data": images(16)}
    return Run(method=method, epochs=3, batch_size=8, accelerator="cpu", **given | fields)


def gradient_of_terms(method: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Each term, and its gradient at the last layer."""
    run = run_of(method)
    run.setup()
    step = Step(run, next(run.train_data.batches([torch.arange(8)])), Clock(0, 1, 0, 1), 0)
    step.counts = run.count([step])
    weights = list(run.students[0].module.fc.parameters())
    terms = {name: term.part(step) for name, term in as_terms(method.loss(step, run.bundle.state)).items()}
    found = {
        name: torch.cat([each.flatten() for each in torch.autograd.grad(part, weights, retain_graph=True)])
        for name, part in terms.items()
    }
    return {name: float(part.detach()) for name, part in terms.items()}, found


@pytest.mark.parametrize("inner", [CE() + KL(4.0), CE() + 100 * KL(4.0)], ids=repr)
def test_gradients_get_one_length_and_weights_sum_to_one(inner: Any) -> None:
    plain, before = gradient_of_terms(inner)
    found, after = gradient_of_terms(GradMag(inner, layer="fc"))
    weights = {name: found[name] / plain[name] for name in plain}
    assert sum(weights.values()) == pytest.approx(1)
    torch.testing.assert_close(after["ce"].norm(), after["kl"].norm())
    for name, weight in weights.items():
        torch.testing.assert_close(after[name], weight * before[name])


def test_weights_given_before_change_the_size_alone() -> None:
    sums = [sum(gradient_of_terms(GradMag(CE() + w * KL(), layer="fc"))[1].values()) for w in (1.0, 50.0)]
    torch.testing.assert_close(sums[0] / sums[0].norm(), sums[1] / sums[1].norm())


def test_a_term_without_gradient_weighs_nothing() -> None:
    x, y = images(16)
    unlabelled = trained(run_of(GradMag(CE() + KL(), layer="fc"), data=(x, torch.full_like(y, -1))))
    alone = trained(run_of(KL(), data=(x, torch.full_like(y, -1))))
    for name, weights in alone.students[0].state_dict().items():
        torch.testing.assert_close(unlabelled.students[0].state_dict()[name], weights)


def test_a_layer_that_is_not_there_is_said() -> None:
    with pytest.raises(SettingError, match=r"no layer 'fd'.*did you mean 'fc'"):
        run_of(GradMag(CE(), layer="fd"), optimizer=SGD(0.1)).setup()
    assert GradMag(CE(), layer="fc").couples_examples
