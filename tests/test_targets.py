import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.targets import mix, one_hot, pseudo_label
from tests.strategies import few, labels, logits, probabilities


def test_one_hot_by_hand() -> None:
    hot = one_hot(torch.tensor([2, UNLABELLED, 0]), 3)
    assert hot.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert hot.dtype == torch.float32
    assert one_hot(torch.tensor([1]), 2, torch.bfloat16).dtype == torch.bfloat16


@few
@given(labels(5, 4))
def test_one_hot_holds_the_label(y: Tensor) -> None:
    hot = one_hot(y, 4)
    assert hot.sum(1).tolist() == [float(c != UNLABELLED) for c in y]
    assert [row.argmax().item() for row, c in zip(hot, y, strict=True) if c >= 0] == [c for c in y.tolist() if c >= 0]


@few
@given(probabilities(3, 4), probabilities(3, 4), st.floats(0, 1))
def test_a_mixture_of_probabilities_is_one(truth: Tensor, other: Tensor, alpha: float) -> None:
    mixed = mix(truth, other, alpha)
    torch.testing.assert_close(mixed.sum(1), torch.ones(3, dtype=mixed.dtype))
    assert (mixed >= torch.minimum(truth, other) - 1e-12).all()
    assert torch.equal(mix(truth, other, 0), truth)
    assert torch.equal(mix(truth, other, 1), other)


@few
@given(logits(4, 3), st.floats(0, 1))
def test_pseudo_labels_are_sure_of_the_most_probable_class(z: Tensor, threshold: float) -> None:
    label, sure = pseudo_label(z.requires_grad_(), threshold)
    for row, c, known in zip(z.tolist(), label.tolist(), sure.tolist(), strict=True):
        assert row[c] == max(row)
        assert known == (torch.tensor(row, dtype=z.dtype).softmax(0).max().item() >= threshold)
    assert not sure.requires_grad


@pytest.mark.parametrize(("threshold", "sure"), [(0.5, [1, 1]), (0.75, [0, 1]), (1.0, [0, 1])])
def test_the_threshold_itself_is_sure(threshold: float, sure: list[int]) -> None:
    assert pseudo_label(torch.tensor([[0.0, 0.0], [90.0, -90.0]]), threshold)[1].tolist() == sure
