import torch
from hypothesis import given, strategies as st

from limbeck.losses.binary import binary_cross_entropy as bce
from tests.strategies import few, rows, tensors


def test_by_hand() -> None:
    target = torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(bce(torch.zeros(1, 2), target), torch.tensor([2.0]).log())
    torch.testing.assert_close(bce(torch.tensor([[-3.0, 3.0]]), target), torch.tensor([0.048587]), atol=1e-6, rtol=0)


@few
@given(st.tuples(rows, st.integers(1, 4)).flatmap(lambda s: st.tuples(tensors(*s), tensors(*s))))
def test_least_at_the_target_and_symmetric_in_yes_and_no(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, a = pair[0], pair[1].sigmoid()
    assert (bce(z, a) >= bce(pair[1], a) - 1e-12).all()
    torch.testing.assert_close(bce(z, a), bce(-z, 1 - a))
