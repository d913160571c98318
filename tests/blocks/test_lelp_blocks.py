import pytest
import torch

from limbeck import SGD, Data, Run
from limbeck.blocks.lelp import LELP, class_directions
from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy
from limbeck.models import build
from limbeck.targets import subclass_split
from tests.blocks.test_targets_blocks import value
from tests.strategies import normal


def directions(h, label, classes, parts, w=None, seed=0):
    return class_directions(h, label, classes, parts, hidden_from=w, generator=torch.Generator().manual_seed(seed))


def scores(h, weight, bias):
    return torch.einsum("nd,csd->ncs", h, weight) + bias


def test_scores_are_standardised_within_each_class() -> None:
    h, label = normal(60, 7) * torch.arange(1.0, 8.0), torch.arange(60) % 2
    u = scores(h, *directions(h, label, 2, 3))
    for c in range(2):
        own = u[label == c][:, c]
        torch.testing.assert_close(own.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(own.std(0, correction=0), torch.ones(3).double())


def test_directions_span_the_main_components() -> None:
    h, label = normal(60, 7), torch.zeros(60, dtype=torch.long)
    h[:, 2:] *= 1e-3  # all that varies is in the first two
    weight, _ = directions(h, label, 1, 2)
    assert weight[0, :, 2:].norm() < 0.01 * weight[0].norm()
    assert not torch.allclose(weight, directions(h, label, 1, 2, seed=1)[0])  # rotated at random


def test_what_the_logits_show_is_left_out() -> None:
    h, label, w = normal(40, 6), torch.arange(40) % 2, normal(2, 6, seed=3)
    weight, bias = directions(h, label, 2, 3, w)
    torch.testing.assert_close(weight @ w.T, torch.zeros(2, 3, 2).double(), atol=1e-9, rtol=0)
    moved = h + normal(40, 2, seed=4) @ w  # moves the logits only
    torch.testing.assert_close(scores(moved, weight, bias), scores(h, weight, bias))


def test_rare_classes_and_embeddings_without_spread() -> None:
    h = normal(20, 4)
    weight, bias = directions(h, torch.zeros(20, dtype=torch.long), 3, 2)
    assert weight.isfinite().all()
    torch.testing.assert_close(scores(h, weight, bias)[:, 1].mean(0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    flat = torch.full((20, 4), 3.3)
    assert not directions(flat, torch.zeros(20, dtype=torch.long), 1, 2)[0].any()
    with pytest.raises(SettingError, match="fewer subclasses"):
        directions(h, torch.zeros(20, dtype=torch.long), 1, 5)


def run(method, **settings) -> Run:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 4, 4, generator=g)
    torch.manual_seed(1)
    student, teacher = (build("mlp", channels=1, classes=2, size=4) for _ in range(2))
    made = Run(student=student, data=Data(x, **settings), teacher=teacher, method=method, accelerator="cpu", epochs=1)
    made.optimizer = SGD(0.1)
    made.setup()
    return made


def test_loss_and_answer() -> None:
    made = run(LELP(3, 1.5, 2.0))
    found, step = value(made)
    student, teacher = made.students[0].module, step.teacher("x")
    z = student.fc.linear(student[:-1](step.view("x")))
    target = subclass_split(teacher.logits / 2, made.bundle.state(teacher.embedding), beta=1.5)
    assert found == pytest.approx(cross_entropy(z, target.flatten(1)).mean().item())
    expected = z.softmax(1).unflatten(1, (2, 3)).sum(2)
    torch.testing.assert_close(student(step.view("x")).softmax(1), expected)


def test_no_more_to_learn_than_the_target() -> None:
    made = run(LELP(3, 1.0, 1.0, null_space=False))
    _, step = value(made)
    teacher = step.teacher("x")
    target = subclass_split(teacher.logits, made.bundle.state(teacher.embedding)).flatten(1)
    assert value(made)[0] >= float(cross_entropy(target.log(), target).mean())


def test_another_number_of_subclasses_is_refused() -> None:
    made = run(LELP(3, 1.0, 1.0))
    with pytest.raises(SettingError, match="3 subclasses"):
        LELP(2, 1.0, 1.0).init(made)
