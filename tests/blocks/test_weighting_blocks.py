import pytest
import torch

from limbeck import UNLABELLED, Data, Run
from limbeck.blocks.weighting import LLKD, RAD, SimilarTasks, balanced
from limbeck.errors import SettingError, SignalError
from limbeck.losses.logit import cross_entropy
from limbeck.models import build
from limbeck.selection import llkd_weights
from tests.blocks.test_targets_blocks import data, net, ready, value


def test_llkd_divides_by_the_number_of_the_selected() -> None:
    run = ready(LLKD(0.9))
    found, step = value(run)
    confidence, label = step.teacher("x").logits.softmax(1).max(1)
    z = step.student("x").logits.detach()
    uncertainty = cross_entropy(z, z.softmax(1))
    sure = run.bundle.state.level("sure").after(confidence, label, 0.9)
    unsure = run.bundle.state.level("unsure").after(uncertainty, label, 0.9)
    weight, selected = llkd_weights(confidence, uncertainty, label, sure=sure, unsure=unsure)
    expected = (weight * cross_entropy(z, label)).sum() / selected.sum().clamp(min=1)
    assert found == pytest.approx(float(expected))
    run.fit()
    torch.testing.assert_close(run.bundle.state.sure, sure.overall)
    torch.testing.assert_close(run.bundle.state.unsure_classes, unsure.classes)
    assert run.method.couples_examples


def test_llkd_weighs_without_gradient() -> None:
    run = ready(LLKD(0.9))
    _, step = value(run)
    loss, _ = run.bundle(step)
    z = step.student("x").logits
    terms = run.method.loss(step, run.bundle.state)
    (gradient,) = torch.autograd.grad(terms["pseudo"].mean(), z)
    weight = terms["pseudo"].detach() / cross_entropy(z.detach(), step.kept["label"])
    expected = weight[:, None] * (z.softmax(1) - torch.eye(3)[step.kept["label"]]) / len(z)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-4)
    assert loss.requires_grad


def asked(epochs: int) -> tuple[Run, list[int]]:
    few = data(40)
    few.y[10:] = UNLABELLED
    calls = []

    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = net(2)

        def forward(self, x):
            calls.append(len(x))
            return self.fc(x)

    run = ready(RAD(4, 2, 0.1), few, Counted(), epochs=epochs)
    calls.clear()
    return run, calls


def test_rad_asks_for_its_budget_and_no_more() -> None:
    run, calls = asked(epochs=3)
    run.fit()
    assert calls == [4, 4]
    place = run.bundle.state.place
    ids = (place >= 0).nonzero().flatten()
    assert len(ids) == 8
    assert (run.train_data.y[ids] == UNLABELLED).all()
    expected = run.teachers[0](run.train_data.x[ids], "x", ids).logits.softmax(1)
    torch.testing.assert_close(run.bundle.state.answers[place[ids]], expected)


def test_rad_learns_labels_and_answers_alike() -> None:
    run, _ = asked(epochs=3)
    run.bundle.state.write(torch.tensor([12, 30]), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]))
    found, step = value(run)
    z = step.student("x").logits
    ce = cross_entropy(z[:10], step.y[:10]).sum() + cross_entropy(z[[12, 30]], run.bundle.state.answers[:2]).sum()
    assert found == pytest.approx(ce.item() / 12)


def test_rad_needs_labels_to_start_from() -> None:
    with pytest.raises(SignalError, match="needs labels"):
        ready(RAD(1, 1, 0.1), Data(data().x))


def sources() -> tuple[Run, list[torch.nn.Module]]:
    """A source that knows the label (it is the mean of the image) and one that does not."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(30) % 2
    x = torch.rand(30, 1, 4, 4, generator=g) * 0.2 + y.view(-1, 1, 1, 1) * 0.5
    torch.manual_seed(0)
    knows, does_not = (build("mlp", channels=1, classes=c, size=4) for c in (4, 5))
    with torch.no_grad():
        does_not.layer1[0].weight -= does_not.layer1[0].weight.mean(1, keepdim=True)  # blind to the mean
    run = Run(student=net(1, classes=2), data=Data(x, y), teacher=[does_not, knows], method=SimilarTasks(None))
    run.accelerator = "cpu"
    return run, [does_not, knows]


def test_the_nearest_source_alone_is_run() -> None:
    run, (_, knows) = sources()
    run.setup()
    assert run.bundle.state.used == [(1, 1.0)]
    found, step = value(run)
    embedding = run.students[0].module[:-1](step.view("x"))
    target = knows(step.view("x")).softmax(1)
    assert found == pytest.approx(cross_entropy(run.bundle.state.heads[0](embedding), target).mean().item())
    assert not step.teachers[0].seen


def test_shares_of_several_sources() -> None:
    run, _ = sources()
    run.method = SimilarTasks(1.0)
    run.setup()
    shares = dict(run.bundle.state.used)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[1] > shares.get(0, 0.0)
    run.method = SimilarTasks(0.0)
    assert run.method.init(run).used == [(0, 0.5), (1, 0.5)]
    assert [head.out_features for head in run.method.init(run).heads] == [5, 4]
    assert all(p.requires_grad for p in run.bundle.state.parameters())


def test_balanced() -> None:
    y = torch.tensor([0, 1, 1, -1, 1, 0, 1])
    assert sorted(balanced(y, 100).tolist()) == [0, 1, 2, 5]
    assert sorted(balanced(y, 2).tolist()) == [0, 1]
    for nothing in (None, torch.tensor([-1, 2, 2])):
        with pytest.raises(SettingError, match="two classes"):
            balanced(nothing, 10)
