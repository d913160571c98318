import pytest
import torch
from torch import nn

from limbeck.errors import SettingError
from limbeck.heads import DualHead, Subclasses, graft
from limbeck.models import build
from limbeck.signals import Net
from tests.strategies import normal


def widen(linear: nn.Linear) -> Subclasses:
    return Subclasses(linear, parts=3)


def test_dual_head_reproduces_each_head_alone() -> None:
    head, x = DualHead(nn.Linear(4, 3)).double(), normal(5, 4)
    torch.testing.assert_close(head(x).exp().sum(1), torch.ones(5).double())
    head.alpha.fill_(1.0)
    torch.testing.assert_close(head(x), head.ce(x).log_softmax(1))
    head.alpha.fill_(0.0)
    torch.testing.assert_close(head(x), (head.kd(x) / head.beta).log_softmax(1))
    head(1e4 * x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_dual_head_mixes_probabilities() -> None:
    head, x = DualHead(nn.Linear(4, 3), alpha=0.3, beta=2.0).double(), normal(5, 4)
    mixed = 0.3 * head.ce(x).softmax(1) + 0.7 * (head.kd(x) / 2).softmax(1)
    torch.testing.assert_close(head(x).exp(), mixed, rtol=1e-6, atol=1e-6)


def test_the_best_mixture_is_chosen() -> None:
    head, y = DualHead(nn.Linear(4, 3)), torch.tensor([0, 1, 2, 0])
    right, wrong = 5 * torch.eye(3)[y], 5 * torch.eye(3)[(y + 1) % 3]
    alpha, _ = head.choose(right, wrong, y)
    assert alpha == head.alpha.item() == 1.0
    assert head.choose(wrong, right, y) == (0.0, 0.5)


def test_subclasses_sum_probabilities() -> None:
    head, x = Subclasses(nn.Linear(4, 2), parts=3).double(), normal(5, 4)
    assert head.linear.weight.shape == (6, 4)
    whole = head.linear(x).softmax(1).unflatten(1, (2, 3)).sum(2)
    torch.testing.assert_close(head(x).softmax(1), whole)


def test_grafting() -> None:
    net, x = Net(build("mlp", channels=1, classes=2, size=4)), torch.rand(3, 1, 4, 4)
    net.read([".embedding", "fc"])  # tapped before: stays so
    path, head = graft(net, Subclasses, widen)
    net.read([f"{path}.linear"])
    out = net(x)
    assert path == "fc"
    assert out.logits.shape == (3, 2)
    torch.testing.assert_close(out["fc"], out["fc.linear"])
    torch.testing.assert_close(head(out.embedding), out.logits)
    assert graft(net, Subclasses, widen) == ("fc", head)  # an earlier one stays


def test_grafting_by_name_and_where_it_cannot_be() -> None:
    assert graft(Net(build("cnn", channels=1, classes=2, size=4), head="fc"), DualHead, DualHead)[0] == "fc"
    with pytest.raises(SettingError, match="Conv2d"):
        graft(Net(nn.Sequential(nn.Conv2d(1, 2, 1)), head="0"), DualHead, DualHead)
