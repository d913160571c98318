import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import TensorDataset

from limbeck.data import UNLABELLED, Data
from limbeck.data.select import el2n, forgetting, joined, near, prune, random_scores, subset, topk_per_class
from limbeck.errors import DataError, SettingError

few = settings(max_examples=25, deadline=None, derandomize=True)


def test_el2n_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])  # (1/2, 1/2), (1/4, 3/4)
    score = el2n(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(score, torch.tensor([math.sqrt(0.5), math.sqrt(2) / 4]))
    runs = torch.stack([logits, torch.zeros(2, 2)])
    torch.testing.assert_close(el2n(runs, torch.tensor([0, 1])), (score + math.sqrt(0.5)) / 2)


def test_el2n_is_between_right_and_surely_wrong() -> None:
    logits = torch.tensor([[50.0, 0.0], [50.0, 0.0]])
    torch.testing.assert_close(el2n(logits, torch.tensor([0, 1])), torch.tensor([0.0, math.sqrt(2.0)]))
    with pytest.raises(DataError, match="labelled"):
        el2n(logits, torch.tensor([0, UNLABELLED]))


def test_forgetting_counts_falls_and_never_learned_is_last() -> None:
    right = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
    assert forgetting(right).tolist() == [2.0, 0.0, 0.0, math.inf]
    assert 3 in prune(forgetting(right), 0.25)


@few
@given(st.integers(1, 60), st.floats(0.01, 1.0), st.integers(0, 3))
def test_pruning_keeps_the_hardest_and_the_share(n: int, fraction: float, seed: int) -> None:
    scores = random_scores(n, seed=seed)
    ids = prune(scores, fraction)
    assert len(ids) == max(1, round(fraction * n))
    assert ids.tolist() == sorted(set(ids.tolist()))
    left = torch.ones(n, dtype=torch.bool).index_fill(0, ids, False)
    assert not left.any() or scores[ids].min() >= scores[left].max()
    assert torch.equal(prune(-scores, fraction, keep="lowest"), ids)


def test_pruning_by_class_and_ties_by_id() -> None:
    y = torch.tensor([0] * 8 + [1] * 4)
    assert prune(torch.zeros(12), 0.5, y=y).tolist() == [0, 1, 2, 3, 8, 9]
    assert prune(torch.arange(12.0), 0.01, y=y).tolist() == [7, 11]  # at least one of each
    with pytest.raises(SettingError, match="fraction"):
        prune(torch.zeros(3), 0.0)


def test_smaller_random_selections_are_part_of_larger_ones() -> None:
    scores = random_scores(100, seed=1)
    assert set(prune(scores, 0.1).tolist()) < set(prune(scores, 0.5).tolist())
    assert not torch.equal(scores, random_scores(100, seed=2))


def test_topk_per_class() -> None:
    scores = torch.tensor([0.9, 0.5, 0.7, 0.99, 0.1, 0.2])
    labels = torch.tensor([0, 0, 0, 1, 1, UNLABELLED])
    assert topk_per_class(scores, labels, 2).tolist() == [0, 2, 3, 4]
    assert topk_per_class(scores, torch.full((6,), UNLABELLED), 2).tolist() == []


def test_near_duplicates_whatever_the_length() -> None:
    held_out = torch.eye(3)
    pool = torch.tensor([[5.0, 0.1, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert near(pool, held_out, least=0.95).tolist() == [True, False, False]
    assert torch.equal(near(pool, held_out, least=0.7, rows=1), near(pool, held_out, least=0.7))


@pytest.mark.parametrize("mapped", [False, True])
def test_subset_and_joined(mapped: bool) -> None:
    x, y = torch.arange(20.0).view(10, 2), torch.arange(10) % 3
    data = Data(TensorDataset(x, y), classes=3) if mapped else Data(x, y, masks={"valid": y < 2})
    part = subset(data, torch.tensor([1, 4, 5]))
    both = joined(part, subset(data, torch.tensor([0, 2])))
    batch = next(both.batches([torch.arange(5)]))
    assert torch.equal(batch.view("x"), x[[1, 4, 5, 0, 2]])
    assert both.num_classes == data.num_classes
    if not mapped:
        assert batch.y is not None
        assert batch.y.tolist() == [1, 1, UNLABELLED, UNLABELLED, UNLABELLED]
        assert batch.masks["valid"].tolist() == [True, True, False, True, False]
        with pytest.raises(DataError, match="in memory"):
            joined(data, Data(TensorDataset(x, y)))
