"""Joint labels of class and transformation."""

import pytest
import torch
from hypothesis import given, strategies as st

from limbeck.errors import ShapeError
from limbeck.losses.joint import aggregate, joint_cross_entropy
from limbeck.losses.logit import cross_entropy
from tests.strategies import few, normal, tensors


@few
@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(2, 4))
def test_each_transformed_input_has_its_own_classes(data: st.DataObject, b: int, m: int, k: int) -> None:
    joint = data.draw(tensors(b, m, k * m))
    y = torch.arange(b) % k
    one_by_one = [cross_entropy(joint[:, i], y * m + i) for i in range(m)]
    torch.testing.assert_close(joint_cross_entropy(joint, y), torch.stack(one_by_one).mean(0))
    by_hand = [[joint[n, :, c * m : (c + 1) * m].diagonal().mean() for c in range(k)] for n in range(b)]
    torch.testing.assert_close(aggregate(joint), torch.tensor(by_hand, dtype=joint.dtype))


def test_one_transformation_is_the_plain_loss() -> None:
    joint, y = normal(3, 1, 5), torch.tensor([0, 4, 2])
    torch.testing.assert_close(joint_cross_entropy(joint, y), cross_entropy(joint[:, 0], y))
    assert torch.equal(aggregate(joint), joint[:, 0])


def test_a_wrong_number_of_logits() -> None:
    with pytest.raises(ShapeError, match="multiple of 4"):
        aggregate(normal(2, 4, 10))
