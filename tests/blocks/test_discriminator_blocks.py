import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import Run, registry
from limbeck.blocks.discriminator import Discriminator
from tests.pipelines import digits, net, parts, step_of


def run_of(reverse: bool) -> Run:
    data, _ = digits()
    run = Run(student=net(1), teacher=[net(2), net(3)], data=data, method=Discriminator(reverse))
    run.setup()
    run.bundle.state[4].bias.data.fill_(1.0)  # else the last ReLU is dead from the start, with this seed
    return run


def test_value_is_the_authors() -> None:
    """Both stacked along the batch, two-column targets, the mean of all."""
    run = run_of(False)
    step = step_of(run)
    student = step.student("x").logits
    teacher = (step.teachers[0]("x").logits + step.teachers[1]("x").logits) / 2
    judge = nn.Sequential(nn.Linear(10, 15), nn.ReLU(), nn.Linear(15, 15), nn.ReLU(), nn.Linear(15, 2), nn.ReLU())
    judge.load_state_dict(run.bundle.state.state_dict())
    target = torch.tensor([[1.0, 0.0]] * step.rows + [[0.0, 1.0]] * step.rows)
    expected = F.binary_cross_entropy_with_logits(judge(torch.cat([student, teacher])), target)
    torch.testing.assert_close(parts(run, step)["judge"], expected)


def test_reversal_turns_the_students_gradient_only() -> None:
    gradients = []
    for reverse in (False, True):
        run = run_of(reverse)
        value = parts(run, step_of(run))["judge"]
        weights = [*run.students[0].parameters()], [*run.bundle.state.parameters()]
        gradients.append([torch.autograd.grad(value, side, retain_graph=True) for side in weights])
        gradients[-1].append(value.detach())
    (student, judge, value), (turned, same, equal) = gradients
    assert any(g.any() for g in student)
    for one, other in zip(student, turned, strict=True):
        torch.testing.assert_close(one, -other)
    for one, other in zip((*judge, value), (*same, equal), strict=True):
        torch.testing.assert_close(one, other)


def test_a_judge_that_cannot_tell_is_at_log_2() -> None:
    run = run_of(False)
    for p in run.bundle.state.parameters():
        p.data.zero_()
    assert parts(run, step_of(run))["judge"].item() == pytest.approx(math.log(2))


def test_the_judge_learns_beside_a_student_that_stands() -> None:
    data, _ = digits()
    run = Run(student=net(1), teacher=net(2), data=data, method=registry.make("meal_v2", judge="reversed"), epochs=6)
    run.setup()
    before = copy.deepcopy(run.bundle.state)
    rows = run.fit()
    assert rows[-1]["terms"]["soft"] < rows[0]["terms"]["soft"]
    assert any((a != b).any() for a, b in zip(before.parameters(), run.bundle.state.parameters(), strict=True))


def test_sizes_are_the_authors_for_a_thousand_classes() -> None:
    data, _ = digits(8)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000))
    run = Run(student=student, teacher=student, data=data.x, method=Discriminator(True))
    run.setup()
    assert [p.shape[0] for p in run.bundle.state.parameters() if p.dim() == 2] == [125, 15, 2]
