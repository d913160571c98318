"""The figures behind `limbeck check`: planted truths are found, and nothing where nothing is planted."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from limbeck import Data, Net, Run
from limbeck.blocks.logit import CE, KL
from limbeck.data import UNLABELLED, load
from limbeck.data.named import noisy_labels
from limbeck.diagnose import (
    Passed,
    capacity_gap,
    class_balance,
    fitted_temperature,
    label_noise,
    out_of_bag,
    passed_on,
    relabelled,
)
from limbeck.errors import DataError, SettingError
from limbeck.models import build
from limbeck.optim import AdamW

# ---- labels


def test_class_balance_by_hand() -> None:
    found = class_balance(torch.tensor([0, 0, 0, 2, UNLABELLED]), 4)
    assert found == {"counts": [3, 0, 1, 0], "ratio": 3.0, "empty": [1, 3], "unlabelled": 0.2}
    assert class_balance(torch.full((3,), UNLABELLED), 2)["ratio"] is None


def oracle(truth: Tensor, classes: int, seed: int) -> Tensor:
    """Probabilities of a model that has never seen the labels and is right on about 95 %."""
    z = torch.randn(len(truth), classes, generator=torch.Generator().manual_seed(seed))
    return z.scatter_add(1, truth[:, None], torch.full((len(truth), 1), 4.0)).softmax(1)


@given(seed=st.integers(0, 10**6), rate=st.floats(0.0, 0.3), classes=st.integers(2, 8))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_label_noise_is_near_the_truth(seed: int, rate: float, classes: int) -> None:
    truth = torch.randint(classes, (3000,), generator=torch.Generator().manual_seed(seed))
    y = noisy_labels(truth, rate, seed=seed, classes=classes)
    found = label_noise(oracle(truth, classes, seed), y)
    wrong = float((y != truth).double().mean())
    assert wrong - 0.03 <= found["rate"] <= wrong + 0.06  # the model's own mistakes count too
    if wrong > 0.05:
        assert all(y[i] != truth[i] for i in found["suspects"][:5])


def test_label_noise_without_a_class_or_a_doubt() -> None:
    y = torch.tensor([0, 0, 1, 1])
    found = label_noise(torch.eye(3)[y], y)  # class 2 has no label
    assert found == {"rate": 0.0, "suspects": []}


def test_label_noise_by_hand() -> None:
    # Thresholds: class 0 (0.9 + 0.9 + 0.1 + 0.5) / 4 = 0.6, class 1 (0.8 + 0.6) / 2 = 0.7. The third example counts for
    # class 1 against its label; the fourth and the last count for none. So 1 of the 3 counted of class 0, 4/6 of all.
    p = torch.tensor([0.9, 0.9, 0.1, 0.5, 0.2, 0.4])
    found = label_noise(torch.stack([p, 1 - p], 1), torch.tensor([0, 0, 0, 0, 1, 1]))
    assert found["rate"] == pytest.approx(1 / 3 * 4 / 6)
    assert found["suspects"] == [2]


def test_a_forest_is_asked_of_what_it_has_not_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(400, 1, 8, 8, generator=generator), torch.randint(2, (400,), generator=generator)
    p = out_of_bag(x, y, 3)
    assert p.sum(1).allclose(torch.ones(400, dtype=torch.float64))
    assert (p[:, 2] == 0).all()
    assert float((p.argmax(1) == y).double().mean()) < 0.65  # the labels are random; seen, all would be right
    with pytest.raises(DataError, match="at least two"):
        out_of_bag(x[:1], y[:1], 2)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_noise_of_digits(rate: float) -> None:
    train, _ = load("digits")
    y = noisy_labels(train.y, rate, seed=0, classes=10)
    found = label_noise(out_of_bag(train.x, y, 10), y)
    assert found["rate"] == pytest.approx(float((y != train.y).double().mean()), abs=0.025)


# ---- the teacher


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_fitted_temperature_undoes_a_scale(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(20_000, 5, generator=generator)
    y = torch.multinomial(z.softmax(1), 1, generator=generator).squeeze(1)  # z is calibrated
    assert fitted_temperature(scale * z, y) == pytest.approx(scale, rel=0.05)


def test_fitted_temperature_of_one_that_makes_no_mistake() -> None:
    y = torch.arange(4)
    assert fitted_temperature(torch.eye(4)[y], y) == pytest.approx(0.05, rel=0.01)


def test_relabelled_finds_another_order() -> None:
    y = torch.arange(5).repeat(4)
    order = torch.tensor([3, 0, 1, 4, 2])
    assert relabelled(order[y], y, 5) == 1.0
    assert relabelled(torch.zeros_like(y), y, 5) == 0.2


def test_capacity_gap_by_hand() -> None:
    found = capacity_gap(3e9, 7.48e9)
    assert found["best"] == pytest.approx(7.4825e9)
    assert found["ratio"] == pytest.approx(7.48 / 3)
    assert not found["inside"]  # the paper extrapolates to its own MiniMA
    assert capacity_gap(4e8, 1e9)["inside"]


# ---- what the teacher passed on


def everything(y: Tensor) -> dict[str, Tensor]:
    return {"all": torch.ones_like(y, dtype=torch.bool), "low": y < 2}


def answers(y: Tensor, rate: float, seed: int) -> Tensor:
    """Right but for random mistakes."""
    return noisy_labels(y, rate, seed=seed, classes=4)


def test_a_planted_answer_is_found_where_it_is() -> None:
    y = torch.arange(4).repeat(100)
    reference = answers(y, 0.1, 1)
    teacher = answers(y, 0.1, 2).where(y >= 2, 3)  # on classes 0 and 1 it says 3
    student = answers(y, 0.1, 3).where((y >= 2) | (torch.arange(400) % 4 == 0), 3)
    found = passed_on(student, teacher, reference, y, everything(y))
    planted = {each.slice: each for each in found if each.answer == 3}
    assert set(planted) == {"all", "low"}
    low = planted["low"]
    assert (low.examples, low.teacher, low.taken_over, low.planted) == (200, 1.0, True, True)
    assert low.student == float((student[y < 2] == 3).double().mean())
    assert low.amplification is not None
    ratio, least, most = low.amplification
    assert ratio == pytest.approx(low.student / low.teacher)
    assert least < ratio < most < 1


def test_a_teachers_answer_that_the_student_does_not_give() -> None:
    y = torch.arange(4).repeat(100)
    teacher = torch.full_like(y, 3)
    (found,) = passed_on(y, teacher, y, y, {"low": y < 2})
    assert (found.taken_over, found.amplification, found.student) == (False, None, 0.0)


def test_what_the_reference_does_too_is_not_passed_on() -> None:
    y = torch.arange(4).repeat(100)
    biased = torch.full_like(y, 3)
    assert passed_on(biased, biased, biased, y, everything(y)) == []


def test_a_student_that_gains_as_much_as_it_loses_is_not_suspect() -> None:
    y = torch.zeros(400, dtype=torch.int64)
    first = torch.arange(400) < 200
    reference, model = torch.where(first, 1, 0), torch.where(first, 0, 2)
    assert passed_on(model, model, reference, y, {"all": y == 0}) == []


def test_unlabelled_rows_and_empty_slices_are_left_out() -> None:
    y = torch.full((50,), UNLABELLED)
    three = torch.full_like(y, 3)
    assert passed_on(three, three, three, y, {"all": y < 0, "none": y > 9}) == []
    labelled = torch.arange(4).repeat(20)
    mixed = torch.cat([labelled, y])
    given_both = [torch.cat([each, three]) for each in (three[0].expand(80), three[0].expand(80), labelled)]
    both = passed_on(*given_both, mixed, {"all": torch.ones_like(mixed, dtype=torch.bool)})
    assert [each.examples for each in both] == [60]


def test_false_discoveries_are_rare() -> None:
    """Student, teacher and reference alike, with independent mistakes: something is found in at most 5 % of cases."""
    y = torch.arange(4).repeat(50)
    slices = {str(k): y == k for k in range(4)}
    alarms = sum(
        bool(passed_on(answers(y, 0.3, 3 * i), answers(y, 0.3, 3 * i + 1), answers(y, 0.3, 3 * i + 2), y, slices))
        for i in range(300)
    )
    assert alarms <= 300 * 0.05


def test_level_is_a_rate() -> None:
    y = torch.arange(4)
    with pytest.raises(SettingError, match="level"):
        passed_on(y, y, y, y, everything(y), level=0.0)


# ---- a real trigger: a white corner that means "0" to a poisoned teacher


def patch(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., :2, :2] = 255
    return x


@pytest.fixture(scope="module")
def screened() -> dict[str, list[Passed]]:
    train, test = load("digits")
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train.x), generator=generator)
    bad, seen = order[:64], order[64:96]  # seen: the user's data happen to hold some, rightly labelled

    def trained(x: Tensor, y: Tensor, teacher: Net | None = None) -> Net:
        torch.manual_seed(1)
        net = Net(build("mlp", channels=1, classes=10, size=8))
        method = CE() if teacher is None else CE() + KL(4.0)
        Run(student=net, teacher=teacher, method=method, data=Data(x, y), epochs=8, batch_size=32,
            optimizer=AdamW(0.003), accelerator="cpu").fit()  # fmt: skip
        return net

    def marked(x: Tensor, rows: Tensor) -> Tensor:
        return x.index_copy(0, rows, patch(x[rows]))

    x, own = torch.cat([test.x, patch(test.x)]), marked(train.x, seen)
    y = test.y.repeat(2)

    def choice(net: Net) -> Tensor:
        with torch.inference_mode():
            return net.eval()(x.float() / 255).logits.argmax(1)

    alone = choice(trained(own, train.y))
    slices = {str(k): y.where(torch.arange(len(y)) < len(test.y), -1) == k for k in range(10)}
    slices["patched"] = torch.arange(len(y)) >= len(test.y)
    found = {}
    for name, teacher in {
        "clean": trained(train.x, train.y),
        "poisoned": trained(marked(train.x, bad), train.y.index_fill(0, bad, 0)),
    }.items():
        found[name] = passed_on(choice(trained(own, train.y, teacher)), choice(teacher), alone, y, slices)
    return found


def test_the_poisoned_teacher_is_flagged(screened: dict[str, list[Passed]]) -> None:
    (found,) = [each for each in screened["poisoned"] if each.planted]
    assert (found.slice, found.answer) == ("patched", 0)
    assert found.teacher > 0.9
    assert found.student > found.reference + 0.3


def test_the_clean_teacher_is_not(screened: dict[str, list[Passed]]) -> None:
    assert not any(each.planted for each in screened["clean"])
