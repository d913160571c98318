import pytest
import torch
from hypothesis import given, strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, fbeta_score, recall_score
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.overlap import anyloss, dice, dice_set, log_complement, soft_confusion
from tests.losses.test_label import batches, double
from tests.strategies import few, normal

answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12).map(
    lambda pairs: torch.tensor(pairs, dtype=torch.float64).unbind(1)
)


@few
@given(batches())
def test_log_complement_is_the_mass_of_all_others(batch: tuple[Tensor, Tensor]) -> None:
    s, _ = batch
    c = s.shape[1]
    others = torch.stack([s[:, torch.arange(c) != k].logsumexp(-1) for k in range(c)], 1)
    log_others = others - s.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(log_complement(s.log_softmax(-1)), log_others, rtol=1e-9, atol=1e-12)


def test_dice_without_turning_down_is_zero_for_sure_right_answers() -> None:
    y = torch.tensor([0, 2, 1])
    sure = 1e4 * torch.nn.functional.one_hot(y, 3)
    assert not dice(sure, y, alpha=0.0).any()
    assert dice(sure.roll(1, 0), y, alpha=0.0).min() > 0.9  # 1/2 for each of two wrong classes, as g = 1


def test_dice_by_hand() -> None:
    # p = (0.5, 0.5), q = p (1 - p) = 0.25: classes give 1 - 1.5 / (1 + 1/16 + 1) and 1 - 1 / (1/16 + 1)
    want = 1 - 1.5 / (2 + 1 / 16) + 1 - 1 / (1 + 1 / 16)
    assert dice(torch.zeros(1, 2), torch.tensor([0]), alpha=1.0).item() == pytest.approx(want)
    with pytest.raises(SettingError, match="smooth"):
        dice(torch.zeros(1, 2), torch.tensor([0]), smooth=0.0)


def test_sure_targets_are_labels() -> None:
    s, y = normal(4, 3), torch.tensor([0, 2, 1, 1])
    for square in (True, False):
        torch.testing.assert_close(
            dice(s, torch.nn.functional.one_hot(y, 3).double(), square=square), dice(s, y, square=square)
        )


def test_dice_summed_over_the_batch() -> None:
    s, y = normal(4, 3), torch.tensor([0, 2, 1, 1])
    p, t = s.softmax(-1), torch.nn.functional.one_hot(y, 3).double()
    q = (1 - p) ** 0.3 * p
    want = (1 - (2 * q * t + 1) / (q.sum(0) + t.sum(0) + 1)).sum(1)
    torch.testing.assert_close(dice(s, y, alpha=0.3, square=False), want)


@few
@given(answers)
def test_dice_set_of_hard_answers_is_f1(pair: tuple[Tensor, Tensor]) -> None:
    said, y = pair
    rows = dice_set(200 * (said - 0.5), y, alpha=0.0, smooth=1e-9)
    want = 1 - fbeta_score(y, said, beta=1, zero_division=1.0)
    torch.testing.assert_close(rows, torch.full_like(rows, want), rtol=1e-6, atol=1e-6)


def test_columns_are_problems_of_their_own() -> None:
    z, y = normal(6, 2), (normal(6, 2, seed=1) > 0).double()
    for loss in (dice_set, lambda z, y: anyloss(z.sigmoid(), y)):
        torch.testing.assert_close(loss(z, y), (loss(z[:, 0], y[:, 0]) + loss(z[:, 1], y[:, 1])) / 2)


def test_only_the_hardest_negatives_count() -> None:
    """The authors' threshold: of the 5 negatives sorted by score, the one at -keep + 1, itself left out."""
    z = double([3.0, -1.0, 0.5, 2.0, -2.0, 1.0, -0.5, 0.0])
    y = double([1.0, 1, 1, 0, 0, 0, 0, 0])
    keep = 4  # int(3 * 1.4)
    threshold = z[3:].sort().values[-keep + 1]
    kept = (y > 0) | (z > threshold)
    assert kept.sum() == 3 + 2
    torch.testing.assert_close(dice_set(z, y, ohem=1.4)[0], dice_set(z[kept], y[kept])[0])
    torch.testing.assert_close(dice_set(z, y, ohem=0.5)[0], dice_set(z[:3], y[:3])[0])  # none
    kept = (y > 0) | (z > -0.5)  # keep = 5, all negatives
    torch.testing.assert_close(dice_set(z, y, ohem=9.0)[0], dice_set(z[kept], y[kept])[0])


METRICS = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    "fbeta": lambda y, said: fbeta_score(y, said, beta=2, zero_division=0.0),
    "gmean": lambda y, said: (recall_score(y, said) * recall_score(1 - y, 1 - said)) ** 0.5,
}


@pytest.mark.parametrize("metric", METRICS)
@few
@given(answers)
def test_anyloss_of_hard_answers_is_the_metric(metric, pair: tuple[Tensor, Tensor]) -> None:
    said, y = pair
    y = torch.cat([double([0.0, 1.0]), y])  # both classes are there
    said = torch.cat([double([0.0, 1.0]), said])
    rows = anyloss(said, y, metric=metric, beta=2.0)
    torch.testing.assert_close(rows, torch.full_like(rows, 1 - METRICS[metric](y, said)), rtol=1e-6, atol=1e-6)


def test_a_batch_of_one_class_has_a_value_and_no_wild_gradient() -> None:
    for metric in METRICS:
        for y in (torch.zeros(3), torch.ones(3)):
            p = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
            value = anyloss(p, y, metric=metric)
            (gradient,) = torch.autograd.grad(value.sum(), p)
            assert value.isfinite().all()
            assert gradient.abs().max() < 100


def test_soft_confusion_counts_every_row_once() -> None:
    p, y = normal(7).sigmoid(), normal(7, seed=1).sigmoid()
    tp, fn, fp, tn = soft_confusion(p, y, steepness=5.0, threshold=0.3)
    torch.testing.assert_close(tp + fn, y.sum())
    torch.testing.assert_close(fp + tn, (1 - y).sum())
    torch.testing.assert_close(tp + fp, (5 * (p - 0.3)).sigmoid().sum())
    with pytest.raises(SettingError, match="auc"):
        anyloss(p, y, metric="auc")  # type: ignore[arg-type]
