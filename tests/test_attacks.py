import pytest
import torch
from torch import Tensor, nn

from limbeck.attacks import cw_l2, fgsm, margin, margin_step

WEIGHT = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def model(x: Tensor) -> Tensor:
    return 4 * x @ WEIGHT.T  # class 0 where x_0 > x_1


X, Y = torch.tensor([[0.6, 0.4], [0.2, 0.9]]), torch.tensor([0, 1])


def test_margin() -> None:
    torch.testing.assert_close(margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])), torch.tensor([1.0]))
    torch.testing.assert_close(margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1])), torch.tensor([-2.0]))


@pytest.mark.parametrize("attack", [fgsm, margin_step])
def test_one_step_by_hand(attack) -> None:
    torch.testing.assert_close(attack(model, X, Y, eps=0.15), torch.tensor([[0.45, 0.55], [0.35, 0.75]]))
    assert attack(model, X, Y, eps=5.0).tolist() == [[0, 1], [1, 0]]  # stays in [0, 1]


def test_saturation_hides_the_gradient_from_fgsm_alone() -> None:
    hot = lambda x: 1e3 * model(x)  # noqa: E731
    assert torch.equal(fgsm(hot, X, Y, eps=0.15), X)
    assert not torch.equal(fgsm(hot, X, Y, eps=0.15, tau=1e3), X)
    assert not torch.equal(margin_step(hot, X, Y, eps=0.15), X)


def test_carlini_wagner_finds_the_nearest_point_of_the_boundary() -> None:
    x = torch.cat([X, torch.tensor([[1.0, 0.0]])])
    y = torch.tensor([0, 1, 0])
    found = cw_l2(model, x, y, steps=200, searches=8, lr=0.02)
    assert (margin(model(found), y) <= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    nearest = (x[:, 0] - x[:, 1]).abs() / 2**0.5
    torch.testing.assert_close((found - x).norm(dim=1), nearest, rtol=0.1, atol=0.01)


def test_carlini_wagner_where_nothing_can_be_done() -> None:
    constant = lambda x: x.sum(1, keepdim=True) * 0 + torch.tensor([[1.0, 0.0]])  # noqa: E731
    assert torch.equal(cw_l2(constant, X[:1], Y[:1], steps=3, searches=2), X[:1])


def test_parameters_get_no_gradient() -> None:
    net = nn.Linear(2, 2)
    fgsm(net, X, Y, eps=0.1)
    cw_l2(net, X, Y, steps=2, searches=1)
    assert net.weight.grad is None
