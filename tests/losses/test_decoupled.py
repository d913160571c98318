"""Losses that treat the label's class apart."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError, ShapeError
from limbeck.losses.decoupled import dkd, ofa
from limbeck.losses.logit import cross_entropy, kl
from tests.strategies import batches, few, normal

LOSSES = {
    "dkd": dkd,
    "ofa": lambda s, t, y: ofa(s, t, y, eps=1.5, tau=2.0),
    "ofa of the paper": lambda s, t, y: ofa(s, t, y, eps=1.5, variant="paper"),
}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
y4 = torch.tensor([0, 2, -1, 1])


@few
@given(batches("logits"), st.floats(0.5, 8.0))
def test_dkd_puts_kl_together_again(pair: tuple[Tensor, Tensor, Tensor], tau: float) -> None:
    """KL = TCKD + (1 - the teacher's probability of the label) NCKD."""
    student, teacher, y = pair
    y = y.clamp(min=0)
    others = 1 - (teacher / tau).softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    apart = dkd(student, teacher, y, alpha=1.0, beta=0.0, tau=tau) + others * dkd(
        student, teacher, y, alpha=0.0, beta=1.0, tau=tau
    )
    torch.testing.assert_close(apart, kl(student, teacher, tau=tau), rtol=1e-6, atol=1e-6)


def test_dkd_of_two_classes_has_no_second_part() -> None:
    value = dkd(normal(4, 2), normal(4, 2, seed=1), torch.tensor([0, 1, 1, 0]), alpha=0.0)
    assert not value.any()


def test_dkd_by_hand() -> None:
    """Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), label 0."""
    student, teacher = (torch.tensor([p], dtype=torch.float64).log() for p in ([1, 2, 1], [2, 1, 1]))
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    value = dkd(student, teacher, torch.tensor([0]), alpha=2.0, beta=3.0, tau=1.0)
    torch.testing.assert_close(value, torch.tensor([2 * target + 3 * others], dtype=torch.float64))


def test_labels_may_have_leading_dimensions() -> None:
    student, teacher, y = normal(2, 3, 5), normal(2, 3, 5, seed=1), torch.tensor([[0, 4, -1], [2, 1, 3]])
    for loss in LOSSES.values():
        torch.testing.assert_close(
            loss(student, teacher, y).flatten(), loss(student.flatten(0, 1), teacher.flatten(0, 1), y.flatten())
        )


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_ofa_with_eps_1(variant: str) -> None:
    """By the code it is the soft cross-entropy; the paper's form has the label's cross-entropy beside it."""
    student, teacher, y = normal(4, 5), normal(4, 5, seed=1), torch.tensor([0, 2, 3, 1])
    plain = cross_entropy(student, teacher.softmax(-1)) + (variant == "paper") * cross_entropy(student, y)
    torch.testing.assert_close(ofa(student, teacher, y, eps=1.0, variant=variant), plain)


def test_ofa_pulls_the_label_harder_with_eps() -> None:
    pulls = []
    for eps in (1.0, 1.5, 2.0):
        student = normal(4, 5).requires_grad_()
        value = ofa(student, normal(4, 5, seed=1), torch.tensor([0, 2, 3, 1]), eps=eps).sum()
        pulls.append(torch.autograd.grad(value, student)[0].gather(1, torch.tensor([[0], [2], [3], [1]])).sum())
    assert pulls[0] > pulls[1] > pulls[2]


def test_what_cannot_be() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    for wrong in (lambda: dkd(student, teacher, y4, tau=0.0), lambda: ofa(student, teacher, y4, eps=0.0)):
        with pytest.raises(SettingError, match="positive"):
            wrong()
    with pytest.raises(ShapeError, match="same classes"):
        dkd(student, normal(4, 6), y4)
