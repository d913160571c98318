import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from limbeck import CE, Run, Step, TeacherConfidence, TeacherEntropy, TeacherRight, Weighted
from tests.blocks.tiny import CLASSES, examples, step_of, terms_of, tiny

#: What the teacher says of the 12 examples, as probabilities: sure and right or wrong, torn between two, without idea.
SAYS = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.5, 1e-30], [1 / 3, 1 / 3, 1 / 3]]).repeat(4, 1)


class Says(nn.Module):
    """Answers with `SAYS`, whatever it is asked: the example's number is in its first feature."""

    def forward(self, x: Tensor) -> Tensor:
        return SAYS[x[:, 0].long()].log()


def run_with(by: Callable[[Step], Tensor], unlabelled: tuple[int, ...] = ()) -> Run:
    data = examples(unlabelled=unlabelled)
    data.x[:, 0] = torch.arange(12)
    return tiny(Weighted(CE(), by), data=data, teacher=Says())


def test_confidence() -> None:
    run = run_with(TeacherConfidence())
    torch.testing.assert_close(TeacherConfidence()(step_of(run, torch.arange(3))), torch.tensor([0.8, 0.5, 1 / 3]))


def test_entropy_is_a_share_of_the_largest() -> None:
    run = run_with(TeacherEntropy())
    sure = -(0.8 * math.log(0.8) + 0.2 * math.log(0.1)) / math.log(CLASSES)
    expected = torch.tensor([sure, math.log(2) / math.log(CLASSES), 1.0])
    torch.testing.assert_close(TeacherEntropy()(step_of(run, torch.arange(3))), expected)


def test_right() -> None:
    run = run_with(TeacherRight(), unlabelled=(5, 8))
    # the first class is always the first choice; every third example is of it, and two have no label
    expected = [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0]
    assert TeacherRight()(step_of(run, torch.arange(12))).tolist() == expected


@pytest.mark.parametrize("by", [TeacherConfidence(), TeacherRight()])
def test_a_weight_multiplies_the_value_and_not_the_count(by: Callable[[Step], Tensor]) -> None:
    run = run_with(by, unlabelled=(1, 2))
    index = torch.tensor([0, 1, 2, 3, 4])
    weighted, plain = step_of(run, index), step_of(run, index)
    term = terms_of(run, weighted)["ce"]
    value = CE().loss(plain, None)["ce"].value
    torch.testing.assert_close(term.value, by(plain) * value)
    assert term.where == "labelled"
    labelled = torch.tensor([0, 3, 4])  # places, of which there are three
    torch.testing.assert_close(term.part(weighted), (by(plain) * value)[labelled].sum() / 3)


def test_weights_are_without_gradient() -> None:
    def of_the_student(step: Step) -> Tensor:
        return step.student("x").logits.softmax(-1).amax(-1)

    run = run_with(of_the_student)
    step = step_of(run, torch.arange(4))
    ours = torch.autograd.grad(terms_of(run, step)["ce"].value.sum(), run.students[0].parameters())
    step = step_of(run, torch.arange(4))
    constant = of_the_student(step).detach()
    theirs = torch.autograd.grad((constant * CE().loss(step, None)["ce"].value).sum(), run.students[0].parameters())
    torch.testing.assert_close(ours, theirs)
