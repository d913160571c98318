import pytest
import torch

import limbeck
from limbeck.losses import rkd_angle, rkd_distance
from tests.blocks.tiny import examples, net, step_of, terms_of, tiny

EVERY = torch.arange(12)


def test_rkd_relates_embeddings_with_the_papers_weights() -> None:
    data, student, teacher = examples(unlabelled=(4,)), net(), net(6, seed=1)
    run = tiny(limbeck.rkd(), data=data, student=student, teacher=teacher)
    own, other = student.body(data.x), teacher.body(data.x)  # what enters the last linear layer
    labelled = [i for i in range(12) if i != 4]
    hard = -student(data.x).log_softmax(1)[labelled, data.y[labelled]].mean()
    expected = hard + 25 * rkd_distance(own, other).mean() + 50 * rkd_angle(own, other).mean()
    torch.testing.assert_close(run.bundle(step_of(run, EVERY))[0], expected)


def test_layers_of_ones_own_choice() -> None:
    data, student, teacher = examples(), net(), net(6, seed=1)
    run = tiny(limbeck.RKD(2.0, 0.0, ("fc", "body")), data=data, student=student, teacher=teacher)
    terms = terms_of(run, step_of(run, EVERY))
    assert set(terms) == {"distance"}
    torch.testing.assert_close(terms["distance"].value, 2 * rkd_distance(student(data.x), teacher.body(data.x)))


@pytest.mark.parametrize("method", [limbeck.rkd(), 0.5 * limbeck.RKD(), limbeck.crd()])
def test_it_says_that_examples_are_coupled(method: limbeck.Objective) -> None:
    assert method.couples_examples


def test_others_do_not_couple() -> None:
    for method in (limbeck.kd(), limbeck.attention_transfer(layers=("a",)), limbeck.dml(), limbeck.ps_kd()):
        assert not method.couples_examples
