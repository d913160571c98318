import torch
from hypothesis import given, strategies as st

from limbeck.losses.binary import binary_cross_entropy as bce
from tests.strategies import few, normal, rows, tensors


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


def test_gradient() -> None:
    target = normal(3, 4, seed=1).sigmoid()
    assert torch.autograd.gradcheck(lambda z: bce(z, target), normal(3, 4).requires_grad_())


def test_extreme_logits_and_lower_precision() -> None:
    z = torch.tensor([[1e4, -1e4], [0.3, -2.0]], requires_grad=True)
    a = torch.tensor([[0.0, 1.0], [0.5, 0.1]])
    value = bce(z, a)
    value.sum().backward()
    assert value.isfinite().all()
    assert z.grad.isfinite().all()
    torch.testing.assert_close(bce(z.bfloat16(), a.bfloat16()), value, rtol=0.02, atol=0.02)
