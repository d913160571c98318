from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limbeck
from limbeck.errors import SettingError
from tests.blocks.tiny import CLASSES, WIDTH, assert_same, examples, net, step_of, terms_of, tiny, weights

EVERY = torch.arange(12)
UNLABELLED = (2, 3, 5, 6, 7, 8, 11)


def strong(x: Tensor, draw: object) -> Tensor:
    return -2 * x.flip(1)


def few_labels() -> limbeck.Data:
    return examples(unlabelled=UNLABELLED, views={"strong": strong})


def normalised(seed: int = 0) -> nn.Sequential:
    """A student with batch statistics."""
    first = net(seed=seed)
    return nn.Sequential(OrderedDict(body=nn.Sequential(first.body, nn.BatchNorm1d(5)), fc=first.fc))


def fixmatch_by_hand(logits: Tensor, strong_logits: Tensor, labeller: Tensor, y: Tensor, threshold: float) -> Tensor:
    hard = sum(F.cross_entropy(logits[i], y[i]) for i in EVERY if y[i] >= 0) / (12 - len(UNLABELLED))
    soft = 0.0
    for i in UNLABELLED:
        confidence, label = labeller[i].softmax(0).max(0)
        if confidence >= threshold:
            soft = soft + F.cross_entropy(strong_logits[i], label)
    return hard + soft / len(UNLABELLED)  # the unsure ones count as well


def middle_confidence(logits: Tensor) -> float:
    """A threshold that about half of the unlabelled examples reach."""
    return logits[list(UNLABELLED)].softmax(1).amax(1).median().item() - 1e-4


def test_fixmatch_value_and_gradient_by_hand() -> None:
    data, student = few_labels(), net()
    logits = student(data.x)
    threshold = middle_confidence(logits)
    run = tiny(limbeck.fixmatch(threshold=threshold), data=data, student=student)
    ours, _ = run.bundle(step_of(run, EVERY))
    theirs = fixmatch_by_hand(logits, student(strong(data.x, None)), logits.detach(), data.y, threshold)
    torch.testing.assert_close(ours, theirs)
    parameters = list(student.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters))
    _, sure = limbeck.targets.pseudo_label(logits[list(UNLABELLED)], threshold)
    assert 0 < sure.sum() < len(UNLABELLED)


def test_lambda_weighs_the_unlabelled_term() -> None:
    run = tiny(limbeck.fixmatch(threshold=0.0, weight=3.0), data=few_labels())
    plain = tiny(limbeck.fixmatch(threshold=0.0), data=few_labels())
    ours, theirs = (terms_of(each, step_of(each, EVERY)) for each in (run, plain))
    torch.testing.assert_close(ours["pseudo"].value, 3 * theirs["pseudo"].value)
    torch.testing.assert_close(ours["ce"].value, theirs["ce"].value)


def test_nobody_is_sure() -> None:
    run = tiny(limbeck.fixmatch(threshold=1.0), data=few_labels())
    assert run.fit()[0]["terms"]["pseudo"] == 0.0


def test_the_papers_settings() -> None:
    assert limbeck.fixmatch() == limbeck.PseudoLabel(threshold=0.95, weight=1.0)


@pytest.mark.parametrize("method", [limbeck.fixmatch(threshold=0.5), limbeck.ema_pseudo_label(threshold=0.5)])
def test_one_forward_whose_batch_statistics_are_of_both_views(method: limbeck.Objective) -> None:
    data, student = few_labels(), normalised()
    run = tiny(method, data=data, student=student)
    sizes: list[int] = []
    student.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    terms_of(run, step_of(run, EVERY))
    assert sizes == [24]
    inner = student.body[0](torch.cat([data.x, strong(data.x, None)]))
    norm = student.body[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * inner.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * inner.var(0))


def test_a_joined_view_has_no_forward_of_its_own() -> None:
    run = tiny(limbeck.CE(), data=few_labels(), student=normalised())
    step = step_of(run, EVERY)
    weak, other = step.student.join("x", "strong")
    assert step.student("x") is weak
    assert step.student("strong") is other
    torch.testing.assert_close(
        torch.cat([weak.logits, other.logits]), normalised()(torch.cat([step.view(), step.view("strong")]))
    )
    late = step_of(run, EVERY)
    late.student("x")
    with pytest.raises(SettingError, match="first in the sum"):
        late.student.join("x", "strong")


class Remember:
    """Keeps the student's weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def step(self, run: limbeck.Run) -> None:
        self.seen.append({name: x.clone() for name, x in run.students[0].module.state_dict().items()})

    def epoch(self, run: limbeck.Run, row: object) -> None: ...


def test_the_average_after_six_steps_by_hand() -> None:
    watcher, decay = Remember(), 0.7
    method = limbeck.ema_pseudo_label(decay=decay, threshold=0.4)
    run = tiny(method, data=few_labels(), student=normalised(), watcher=watcher, epochs=2)
    run.fit()
    assert len(watcher.seen) == 6
    average = watcher.seen[0]  # the first step copies
    for now in watcher.seen[1:]:
        average = {name: decay * average[name] + (1 - decay) * now[name] for name in average}
    ours = run.bundle.state.average.module.module.state_dict()
    floats = [name for name in ours if ours[name].is_floating_point()]
    assert any("running_mean" in name for name in floats)
    assert_same({name: ours[name] for name in floats}, {name: average[name] for name in floats})
    assert not torch.allclose(ours["fc.weight"], watcher.seen[-1]["fc.weight"])


def test_the_average_labels_in_its_evaluation_mode() -> None:
    data, student = few_labels(), normalised()
    run = tiny(limbeck.ema_pseudo_label(threshold=0.0), data=data, student=student)
    labeller = normalised(seed=5).eval()
    labeller.body[1].running_mean += 0.3
    run.bundle.state.average.module.module.load_state_dict(labeller.state_dict())
    before = {name: x.clone() for name, x in run.bundle.state.state_dict().items()}
    loss, _ = run.bundle(step_of(run, EVERY))
    copy = normalised()
    logits, strong_logits = copy(torch.cat([data.x, strong(data.x, None)])).split(12)
    answers = labeller(data.x).detach()
    torch.testing.assert_close(loss, fixmatch_by_hand(logits, strong_logits, answers, data.y, 0.0))
    assert (answers.argmax(1) != logits.argmax(1)).any()
    loss.backward()
    assert all(parameter.grad is None for parameter in run.bundle.state.parameters())
    assert all(torch.equal(x, before[name]) for name, x in run.bundle.state.state_dict().items())


def test_the_optimiser_leaves_the_average_alone() -> None:
    run = tiny(limbeck.ema_pseudo_label(decay=0.0, threshold=0.4), data=few_labels())
    run.fit()
    # without memory the average is the student: no gradient, no weight decay, no momentum has moved it
    assert_same(weights(run.bundle.state.average.module.module), weights(run.students[0].module))
    trained = {id(p) for group in run.torch_optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in run.bundle.state.parameters()}


def test_a_view_that_is_not_there_is_named_before_training() -> None:
    with pytest.raises(LookupError, match="strong"):
        tiny(limbeck.fixmatch(), data=limbeck.Data(torch.randn(8, WIDTH), torch.zeros(8).long(), classes=CLASSES))
