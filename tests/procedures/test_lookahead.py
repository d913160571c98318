import torch
from torch import nn

from limbeck.procedures.lookahead import lookahead_gradient


def test_by_hand_of_a_line() -> None:
    """inner w (theta - 1)^2, outer (theta' - 3)^2 with theta' = theta - 2 lr w (theta - 1)."""
    net = nn.Linear(1, 1, bias=False).double()
    theta, lr, w = 5.0, 0.1, torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    net.weight.data.fill_(theta)
    one = torch.ones(1, 1, dtype=torch.float64)
    (slope,) = lookahead_gradient(
        net, lambda f: w * (f(one) - 1).square().sum(), lambda f: (f(one) - 3).square().sum(), [w], lr=lr
    )
    ahead = theta - 2 * lr * 0.7 * (theta - 1)
    torch.testing.assert_close(slope, torch.tensor(2 * (ahead - 3) * -2 * lr * (theta - 1)).double())
    assert net.weight.item() == theta
    assert net.weight.grad is None


def test_is_the_finite_difference_and_leaves_the_net_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
    net[0].bias.requires_grad_(False)
    x, v = torch.randn(6, 3).double(), torch.randn(4, 3).double()
    y, z = torch.randint(2, (6,)), torch.randint(2, (4,))
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def inner(f, w):
        return (w.sigmoid() * nn.functional.cross_entropy(f(x), y, reduction="none")).mean()

    def outer(f):
        return nn.functional.cross_entropy(f(v), z)

    w = torch.randn(6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # as in Objective.prepare
        (slope,) = lookahead_gradient(net, lambda f: inner(f, w), outer, [w], lr=0.5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def ahead(weights):
        copy = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
        copy.load_state_dict(before)
        copy[0].bias.requires_grad_(False)
        inner(copy, weights).backward()
        for p in copy.parameters():
            if p.grad is not None:
                p.data -= 0.5 * p.grad
        return outer(copy).item()

    for i in range(6):
        d = torch.zeros(6).double().index_fill(0, torch.tensor([i]), 1e-5)
        difference = (ahead((w + d).detach()) - ahead((w - d).detach())) / 2e-5
        torch.testing.assert_close(slope[i].item(), difference, rtol=1e-4, atol=1e-9)


def test_weights_that_do_not_matter_get_zero() -> None:
    net = nn.Linear(2, 2)
    w, idle = torch.ones((), requires_grad=True), torch.ones(3, requires_grad=True)
    x = torch.ones(1, 2)
    slopes = lookahead_gradient(net, lambda f: w * f(x).square().sum(), lambda f: f(x).sum(), [w, idle], lr=0.1)
    assert slopes[0] != 0
    assert torch.equal(slopes[1], torch.zeros(3))
