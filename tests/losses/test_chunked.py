import pytest
import torch
from torch import Tensor

from limbeck.losses import Chunked, cross_entropy, kl
from tests.strategies import normal


@pytest.mark.parametrize("pieces", [1, 2, 3, 5, 6, 7, 20])  # some do not divide the 7 rows, one exceeds them
def test_value_and_gradient_of_both_sides(pieces: int) -> None:
    results = []
    for loss in (kl, Chunked(kl, pieces)):
        s, t = normal(7, 4).requires_grad_(), normal(7, 4, seed=1).requires_grad_()
        value = loss(s, t, tau=3.0)
        results.append((value.detach(), *torch.autograd.grad((value * torch.arange(7)).sum(), (s, t))))
    torch.testing.assert_close(results[0], results[1])


def test_labels_are_cut_along() -> None:
    z, y = normal(7, 4), torch.tensor([0, 1, -1, 2, 3, -1, 0])
    torch.testing.assert_close(Chunked(cross_entropy, 3)(z, y), cross_entropy(z, y))


def test_the_loss_sees_a_piece_at_a_time_and_keeps_no_result() -> None:
    seen: list[int] = []
    kept: list[Tensor] = []

    def loss(s: Tensor) -> Tensor:
        seen.append(len(s))
        return s.exp().sum(1)

    s = normal(8, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        value = Chunked(loss, 4)(s)
    assert seen == [2, 2, 2, 2]
    assert {each.untyped_storage().data_ptr() for each in kept} == {s.untyped_storage().data_ptr()}  # the rows alone
    value.sum().backward()
    assert seen == [2] * 8  # each again
    torch.testing.assert_close(s.grad, s.detach().exp())


def test_without_gradient() -> None:
    with torch.no_grad():
        value = Chunked(kl, 2)(normal(5, 3), normal(5, 3, seed=1))
    torch.testing.assert_close(value, kl(normal(5, 3), normal(5, 3, seed=1)))
