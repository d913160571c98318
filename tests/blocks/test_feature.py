from itertools import pairwise

import pytest
import torch
from torch import Tensor

import limbeck
from limbeck.errors import ShapeError
from limbeck.schedules import Clock
from tests.blocks.tiny import convolutional, examples, net, step_of, terms_of, tiny, weights
from tests.losses.test_feature import attention_by_loops

EVERY = torch.arange(12)


def maps(**settings: object) -> limbeck.Data:
    return examples(shape=(1, 4, 4), **settings)


@pytest.mark.parametrize("layer", ["layer1", "layer2", ("layer1", "layer2"), ("layer2", "layer1")])
def test_hint_is_the_mean_squared_difference_behind_the_bridge(layer: str | tuple[str, str]) -> None:
    data, student, teacher = maps(), convolutional(2, 3, stride=2), convolutional(4, 5, stride=2, seed=1)
    run = tiny(limbeck.Hint(layer), data=data, student=student, teacher=teacher)
    own, other = (layer, layer) if isinstance(layer, str) else layer
    features = {(net, "layer1"): net.layer1(data.x) for net in (student, teacher)}
    features |= {(net, "layer2"): net.layer2(features[net, "layer1"]) for net in (student, teacher)}
    guess, truth = run.bundle.state(features[student, own]), features[teacher, other]
    assert guess.shape == truth.shape
    expected = torch.stack([(a - b).square().mean() for a, b in zip(guess, truth, strict=True)])
    torch.testing.assert_close(terms_of(run, step_of(run, EVERY))["hint"].value, expected)


def test_hint_between_shapes_without_a_bridge() -> None:
    with pytest.raises(ShapeError, match="no bridge"):
        tiny(limbeck.Hint(("layer1", "fc")), data=maps(), student=convolutional(2), teacher=convolutional(3, seed=1))


def test_the_stages_of_fitnet() -> None:
    """First the layers up to the hint, and the bridge; then all layers, and no bridge."""
    data, teacher = maps(), convolutional(4, 5, seed=1)
    decay = limbeck.SGD(0.1, momentum=0.9, weight_decay=0.1)
    states: list[dict[str, Tensor]] = []

    class Watch:
        def step(self, run: limbeck.Run) -> None: ...

        def epoch(self, run: limbeck.Run, row: object) -> None:
            states.append(weights(run.bundle))

    run = tiny(
        limbeck.fitnet(layer="layer1", hint_epochs=1),
        data=data,
        student=convolutional(2, 3),
        teacher=teacher,
        epochs=2,
        optimizer=decay,
        watcher=Watch(),
    )
    states.append(weights(run.bundle))
    run.fit()
    moved = [
        {name for name in before if not torch.equal(before[name], after[name])} for before, after in pairwise(states)
    ]
    students = {name for name in states[0] if name.startswith("students")}
    bridge = set(states[0]) - students
    assert len(bridge) == 2
    assert moved[0] == bridge | {name for name in students if ".layer1." in name}
    assert moved[1] == students
    assert [set(row["terms"]) for row in run.history] == [{"hint"}, {"ce", "kl"}]


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 4.0), (0.5, 2.5), (0.9, 1.3)])
def test_the_second_stage_of_fitnet_weighs_as_in_the_paper(progress: float, weight: float) -> None:
    """Romero et al. 2015, equation 2, and the authors' yaml: lambda goes from 4 to 1, tau is 3, and the soft term is a
    cross-entropy that nothing multiplies."""
    data, student, teacher = maps(), convolutional(2, 3), convolutional(4, 5, seed=1)
    run = tiny(limbeck.fitnet(layer="layer1", hint_epochs=2), data=data, student=student, teacher=teacher, epochs=12)
    step = step_of(run, EVERY, clock=Clock(step=int(100 * progress), steps=100, epoch=0, epochs=10), epoch=2)
    loss, _ = run.bundle(step)
    ours = torch.autograd.grad(loss, student.parameters())
    p, log_q = (teacher(data.x) / 3).softmax(1), (student(data.x) / 3).log_softmax(1)
    hard = -student(data.x).log_softmax(1)[EVERY, data.y].mean()
    theirs = torch.autograd.grad(hard - weight * (p * log_q).sum(1).mean(), student.parameters())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # the entropy of p has no gradient


def test_attention_is_summed_over_the_layers() -> None:
    data, student, teacher = maps(), convolutional(2, 3, stride=2), convolutional(4, 5, seed=1)
    run = tiny(
        limbeck.attention_transfer(layers=("layer1", ("layer1", "layer2"), "layer2")),
        data=data,
        student=student,
        teacher=teacher,
    )
    own, other = {"layer1": student.layer1(data.x)}, {"layer1": teacher.layer1(data.x)}
    own["layer2"], other["layer2"] = student.layer2(own["layer1"]), teacher.layer2(other["layer1"])
    expected = -student(data.x).log_softmax(1)[EVERY, data.y].mean()
    for a, b, side in [("layer1", "layer1", 2), ("layer1", "layer2", 2), ("layer2", "layer2", 1)]:
        # the student's maps are the smaller ones
        difference = attention_by_loops(own[a], side, side) - attention_by_loops(other[b], side, side)
        expected = expected + 1000 * difference.square().mean()
    torch.testing.assert_close(run.bundle(step_of(run, EVERY))[0], expected, rtol=1e-4, atol=1e-4)


def test_attention_needs_maps() -> None:
    with pytest.raises(ShapeError, match=r"'body'.*\(2, 5\).*Hint"):
        tiny(limbeck.AttentionTransfer(("body",)), teacher=net(seed=1))
