import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.targets import recover, route_by_confidence, smooth, subclass_split
from tests.strategies import few, normal, probabilities, rows


def test_smooth_by_hand() -> None:
    expected = torch.tensor([[0.05, 0.9, 0.05], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(smooth(torch.tensor([1, -1]), 3, 0.1), expected)


@few
@given(rows.flatmap(lambda b: probabilities(b, 5)), st.integers(1, 5), st.sampled_from(["spread", "drop"]))
def test_recovered_rows_are_distributions_with_the_stored_numbers(p: Tensor, k: int, rest: str) -> None:
    value, index = p.topk(k)
    found = recover(value, index, 5, rest=rest)
    torch.testing.assert_close(found.sum(1), torch.ones(len(p), dtype=p.dtype))
    if rest == "spread":
        torch.testing.assert_close(found.gather(1, index), value)
    if k == 5:
        torch.testing.assert_close(found, p)


def test_recover_by_hand() -> None:
    value, index = torch.tensor([[0.6, 0.2]]), torch.tensor([[3, 0]])
    torch.testing.assert_close(recover(value, index, 4), torch.tensor([[0.2, 0.1, 0.1, 0.6]]))
    torch.testing.assert_close(recover(value, index, 4, rest="drop"), torch.tensor([[0.25, 0.0, 0.0, 0.75]]))
    # one stored class: the hard label, and label smoothing
    assert recover(value[:, :1], index[:, :1], 4, rest="drop").tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(
        recover(value[:, :1], index[:, :1], 4), smooth(torch.tensor([3]), 4, 0.4), atol=1e-6, rtol=0
    )


def test_route() -> None:
    soft = torch.tensor([[0.34, 0.33, 0.33], [0.1, 0.4, 0.5], [0.1, 0.4, 0.5], [0.0, 0.1, 0.9], [0.0, 0.01, 0.99]])
    y = torch.tensor([0, 1, -1, 1, 2])
    target, counts = route_by_confidence(soft, y, low=0.4, middle=0.6, high=0.95, eps=0.2)
    assert counts.tolist() == [False, True, True, True, False]
    torch.testing.assert_close(target[1], torch.tensor([0.1, 0.8, 0.1]))  # the teacher is unsure: the label
    torch.testing.assert_close(target[2:4], soft[2:4])  # no label to take, and a sure teacher
    target, counts = route_by_confidence(soft, y, low=0.05, middle=0.2, high=1, eps=0.2, of="true")
    assert counts.all()
    torch.testing.assert_close(target[3], torch.tensor([0.1, 0.8, 0.1]))  # wrong by its true class's probability
    torch.testing.assert_close(target[[0, 1, 2, 4]], soft[[0, 1, 2, 4]])
    with pytest.raises(SettingError, match="rise"):
        route_by_confidence(soft, y, low=0.4, middle=0.3, high=1, eps=0.1)


def test_subclasses_split_the_classes() -> None:
    logits, scores = normal(4, 3), normal(4, 3, 5, seed=1)
    split = subclass_split(logits, scores, beta=2.0)
    torch.testing.assert_close(split.sum(2), logits.softmax(1))
    torch.testing.assert_close(split[0, 1] / split[0, 1].sum(), (2 * scores[0, 1]).softmax(0))
    torch.testing.assert_close(subclass_split(logits, scores, beta=0.0)[:, :, 0] * 5, logits.softmax(1))
    assert subclass_split(logits * 1e4, scores * 1e4).isfinite().all()
