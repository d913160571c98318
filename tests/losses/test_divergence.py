"""Divergences beside KL(teacher || student): identities between them, values by hand, and what they bear."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError, ShapeError
from limbeck.losses.divergence import (
    balanced_kl,
    centroids,
    class_mass,
    cmi,
    jsd,
    masked_kl,
    reverse_kl,
    skew_kl,
    taid,
    topk_kl,
    total_variation,
)
from limbeck.losses.logit import cross_entropy, kl
from tests.strategies import batches, few, normal

shares = st.floats(0.01, 0.99)


def gradient(loss, student: Tensor, *others: Tensor) -> Tensor:
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, *others).sum(), student)[0]


def logs(*p: float) -> Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


# --- what they are to each other ----------------------------------------------------------------------------------


@few
@given(batches("logits"), st.floats(0.5, 8.0))
def test_reverse_kl_swaps_the_arguments(pair: tuple[Tensor, Tensor, Tensor], tau: float) -> None:
    student, teacher, _ = pair
    torch.testing.assert_close(reverse_kl(student, teacher, tau=tau), kl(teacher, student, tau=tau))


@few
@given(batches("logits"), shares)
def test_jsd_is_symmetric_and_bounded(pair: tuple[Tensor, Tensor, Tensor], beta: float) -> None:
    student, teacher, _ = pair
    value = jsd(student, teacher, beta=beta)
    torch.testing.assert_close(value, jsd(teacher, student, beta=1 - beta), rtol=1e-9, atol=1e-12)
    assert (value <= -(beta * math.log(beta) + (1 - beta) * math.log(1 - beta)) + 1e-9).all()


def test_jsd_tends_to_both_kl() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    for beta, limit in ((1e-9, kl(student, teacher)), (1 - 1e-9, reverse_kl(student, teacher))):
        torch.testing.assert_close(jsd(student, teacher, beta=beta) / min(beta, 1 - beta), limit, rtol=1e-5, atol=1e-7)


@few
@given(batches("logits"), shares)
def test_skew_kl_is_bounded_and_below_kl(pair: tuple[Tensor, Tensor, Tensor], skew: float) -> None:
    student, teacher, _ = pair
    value = skew_kl(student, teacher, skew=skew)
    assert (value <= -math.log(skew) + 1e-9).all()
    assert (value <= (1 - skew) * kl(student, teacher) + 1e-9).all()  # convexity


@few
@given(batches("logits"))
def test_total_variation_is_a_bounded_distance(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = pair
    value = total_variation(student, teacher)
    torch.testing.assert_close(value, total_variation(teacher, student))
    assert (value <= 1 + 1e-12).all()
    assert (value <= (kl(student, teacher).clamp(min=0) / 2).sqrt() + 1e-6).all()  # Pinsker


def test_values_by_hand() -> None:
    """p = (1/2, 1/2), q = (3/4, 1/4)."""
    student, teacher = logs(3, 1), logs(1, 1)
    hand = {
        reverse_kl: 0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        total_variation: 0.25,
        jsd: 0.25 * (math.log(0.8) + math.log(4 / 3)) + 0.375 * math.log(1.2) + 0.125 * math.log(2 / 3),
    }
    for loss, value in hand.items():
        torch.testing.assert_close(loss(student, teacher), torch.tensor([value], dtype=torch.float64))


# --- balanced_kl --------------------------------------------------------------------------------------------------


def test_balanced_kl_weighs_by_which_is_less_sure() -> None:
    sure, unsure = logs(9, 1), logs(6, 4)
    torch.testing.assert_close(
        balanced_kl(unsure, sure, delta=2.0), kl(unsure, sure) + 2 * kl(sure, unsure)
    )  # the student is to become sharper
    torch.testing.assert_close(balanced_kl(sure, unsure, delta=2.0), 2 * kl(sure, unsure) + kl(unsure, sure))


def test_balanced_kl_is_symmetric_at_equal_entropies() -> None:
    one, other = logs(9, 1), logs(1, 9)
    torch.testing.assert_close(balanced_kl(one, other, delta=5.0), kl(one, other) + kl(other, one))


# --- taid ---------------------------------------------------------------------------------------------------------


def test_taid_at_its_ends() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    torch.testing.assert_close(taid(student, teacher, t=1.0), cross_entropy(student, teacher.softmax(-1)))
    assert gradient(lambda s: taid(s, teacher, t=0.0), student).abs().max() < 1e-12


def test_taid_has_the_gradient_of_kl_to_the_mixture() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    mixture = 0.6 * student + 0.4 * teacher
    torch.testing.assert_close(
        gradient(lambda s: taid(s, teacher, t=0.4), student), gradient(lambda s: kl(s, mixture), student)
    )


def test_taid_bears_a_padded_vocabulary() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    padded = [torch.nn.functional.pad(z, (0, 2), value=-torch.inf) for z in (student, teacher)]
    for t in (0.0, 0.4, 1.0):
        torch.testing.assert_close(taid(*padded, t=t), taid(student, teacher, t=t))
        grad = gradient(lambda s, t=t: taid(s, padded[1], t=t), padded[0])
        torch.testing.assert_close(grad[:, :5], gradient(lambda s, t=t: taid(s, teacher, t=t), student))
        assert not grad[:, 5:].any()
    for t in (0.4, 1.0):  # where the teacher has more
        more = torch.nn.functional.pad(teacher, (0, 2), value=1.0)
        torch.testing.assert_close(taid(padded[0], more, t=t), taid(student, teacher, t=t))


# --- topk_kl ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["softmax", "linear"])
def test_topk_kl_of_equals_is_zero(normalise: str) -> None:
    student = normal(4, 7)
    value = topk_kl(student, *student.softmax(-1).topk(3), normalise=normalise)
    torch.testing.assert_close(value, torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_topk_kl_of_all_classes() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    all_ = teacher.softmax(-1).topk(5)
    torch.testing.assert_close(topk_kl(student, *all_, normalise="linear", eps=0.0), kl(student, teacher))
    torch.testing.assert_close(topk_kl(student, *all_, normalise="none"), cross_entropy(student, teacher.softmax(-1)))


def test_topk_kl_linear_does_not_see_the_mass_outside_and_none_does() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    p, index = teacher.softmax(-1).topk(2)
    leak = student + torch.full_like(student, 3.0).scatter(-1, index, 0.0)
    linear = {"normalise": "linear", "eps": 0.0}
    torch.testing.assert_close(topk_kl(leak, p, index, **linear), topk_kl(student, p, index, **linear))
    assert (topk_kl(leak, p, index, normalise="none") > topk_kl(student, p, index, normalise="none")).all()


# --- cmi ----------------------------------------------------------------------------------------------------------


def test_cmi_by_hand() -> None:
    logits, y = torch.cat([logs(3, 1), logs(1, 1), logs(1, 3)]), torch.tensor([0, 0, 1])
    q = centroids(class_mass(logits, y))
    torch.testing.assert_close(q, torch.tensor([[0.625, 0.375], [0.25, 0.75]], dtype=torch.float64))
    first = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    second = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    torch.testing.assert_close(cmi(logits, y, q), torch.tensor([first, second, 0.0], dtype=torch.float64))


def test_an_unlabelled_example_is_in_no_class_mean_and_has_no_cmi() -> None:
    logits, y = normal(6, 3), torch.tensor([0, -1, 1, 0, -1, 1])
    known = y >= 0
    torch.testing.assert_close(class_mass(logits, y), class_mass(logits[known], y[known]))
    q = centroids(class_mass(logits, y))
    assert torch.equal(q[2], torch.full((3,), 1 / 3, dtype=torch.float64))  # a class without examples
    assert not cmi(logits, y, q)[~known].any()
    assert not gradient(lambda z: cmi(z, y, q), logits)[~known].any()


def test_class_means_that_underflow_give_finite_numbers() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    value = cmi(torch.tensor([[-50.0, 50.0]]), torch.tensor([0]), q)
    assert value.isfinite().all()
    assert (value > 10).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda s, t: reverse_kl(s, t, tau=0.0),
        lambda s, t: skew_kl(s, t, skew=0.0),
        lambda s, t: jsd(s, t, beta=1.0),
        lambda s, t: topk_kl(s, *t.softmax(-1).topk(2), student_tau=0.0),
    ],
)
def test_settings_that_cannot_be(call) -> None:
    with pytest.raises(SettingError):
        call(normal(2, 3), normal(2, 3))


def test_other_classes_are_refused() -> None:
    for loss in (reverse_kl, total_variation, jsd, lambda s, t: taid(s, t, t=0.4)):
        with pytest.raises(ShapeError, match="same classes"):
            loss(normal(2, 3), normal(2, 4))


# --- a part of the classes ----------------------------------------------------------------------------------------


def test_masked_kl_of_all_and_of_parts() -> None:
    s, t = normal(3, 5), normal(3, 5, seed=1)
    kept = torch.tensor([True, False, True, True, False])
    torch.testing.assert_close(masked_kl(s, t, torch.ones(5, dtype=torch.bool)), kl(s, t))
    torch.testing.assert_close(masked_kl(s, t, kept) + masked_kl(s, t, ~kept), kl(s, t))
    torch.testing.assert_close(masked_kl(s, t, kept.expand(3, 5)), masked_kl(s, t, kept))


def test_masked_kl_takes_mass_from_the_others_even_at_equality() -> None:
    s = normal(3, 5)
    kept = torch.tensor([True, False, True, True, True])
    down = -gradient(lambda s, t: masked_kl(s, t, kept), s, s)
    assert torch.equal(masked_kl(s, s, kept), torch.zeros(3, dtype=torch.float64))
    assert (down[:, 1] < 0).all()
    assert (down[:, kept] > 0).all()
