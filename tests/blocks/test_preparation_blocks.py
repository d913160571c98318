"""Teachers that are prepared: conditional mutual information."""

import copy

import pytest
import torch

from limbeck.blocks.logit import CE
from limbeck.blocks.preparation import CMI
from limbeck.data import Data
from limbeck.errors import SignalError
from limbeck.losses.divergence import centroids, class_mass, cmi
from limbeck.optim import SGD
from tests.blocks.logit_runs import N, gradients, images, labels, net, run_of, terms_of


def test_centroids_are_the_class_means_over_the_data() -> None:
    """Of a network without batch norm, so that batches do not matter."""
    run = run_of(CMI())
    step, terms = terms_of(run)
    logits = step.student("x").logits
    expected = centroids(class_mass(logits, labels())).detach()
    torch.testing.assert_close(run.bundle.state.q, expected)
    torch.testing.assert_close(terms["cmi"].value, cmi(logits, labels(), expected))
    assert terms["cmi"].where == "labelled"
    assert gradients(terms["cmi"].value, run.students[0])


def test_taking_the_means_leaves_no_trace_in_the_model() -> None:
    model = net("cnn")
    before = copy.deepcopy(model.state_dict())
    run_of(CMI(), model).setup()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.requires_grad for p in model.parameters())


def test_a_negative_weight_raises_it() -> None:
    """Examples of one class move apart, against the same fine-tuning without the term."""
    trained = net("cnn", seed=1)
    run_of(CE(), trained, epochs=20, optimizer=SGD(0.05)).fit()
    found = []
    for method in (CE(), CE() + -0.2 * CMI()):
        model = copy.deepcopy(trained)
        run_of(method, model, epochs=10, optimizer=SGD(0.02)).fit()
        logits = model.eval()(images()).detach()
        found.append(cmi(logits, labels(), centroids(class_mass(logits, labels()))).sum())
    assert found[1] > found[0]


@pytest.mark.parametrize("micro", [None, 2])
def test_centroids_stay_or_follow(micro: int | None) -> None:
    for momentum in (1.0, 0.9):
        run = run_of(CMI(momentum), batch_size=N, micro_batch=micro, epochs=1)
        run.setup()
        q = run.bundle.state.q.clone()
        logits = run.students[0](images()).logits.detach()
        run.fit()
        expected = momentum * q + (1 - momentum) * centroids(class_mass(logits, labels()))
        torch.testing.assert_close(run.bundle.state.q, expected)
        torch.testing.assert_close(run.bundle.state.q.sum(1), torch.ones(4))


def test_labels_are_needed() -> None:
    with pytest.raises(SignalError, match="needs labels"):
        run_of(CMI(), data=Data(images(), classes=4)).setup()
