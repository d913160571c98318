"""Last layers that a method gives a student in place of its own, so that the student is what is deployed.

`graft` puts one where the last linear layer was; its parts are layers like others, to be tapped by path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError
from limbeck.losses.logit import cross_entropy
from limbeck.signals import Net

Head = TypeVar("Head", bound=nn.Module)


class DualHead(nn.Module):
    """Two linear layers, one for labels and one for a teacher, whose probabilities are mixed (Kang et al. 2025, DHO):
    log(alpha softmax(ce) + (1 - alpha) softmax(kd / beta)), (b, d) -> (b, classes). alpha = 1 or 0 is one head alone.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, linear: nn.Linear, *, alpha: float = 0.5, beta: float = 0.5) -> None:
        super().__init__()
        self.ce, self.kd = linear, nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        return mix_heads(self.ce(x), self.kd(x), alpha=self.alpha, beta=self.beta)

    @torch.no_grad()
    def choose(self, ce: Tensor, kd: Tensor, y: Tensor) -> tuple[float, float]:
        """Set alpha and beta to the most accurate pair of the authors' grid, given the logits (n, classes) of both
        heads on labelled examples that are neither trained nor tested on. Of equal pairs the lower loss wins."""
        found = []
        for alpha in torch.arange(21) / 20:
            for beta in torch.tensor([0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0]):
                log_p = mix_heads(ce, kd, alpha=alpha, beta=beta)
                right = (log_p.argmax(-1) == y).sum()
                found.append((int(right), -float(cross_entropy(log_p, y).mean()), float(alpha), float(beta)))
        _, _, alpha, beta = max(found)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)
        return alpha, beta


def mix_heads(ce: Tensor, kd: Tensor, *, alpha: Tensor, beta: Tensor) -> Tensor:
    """Logarithms of alpha softmax(ce) + (1 - alpha) softmax(kd / beta), for logits (..., classes)."""
    return torch.logaddexp(alpha.log() + ce.log_softmax(-1), (1 - alpha).log() + (kd / beta).log_softmax(-1))


class Subclasses(nn.Module):
    """A linear layer with `parts` logits for each class, whose probabilities are summed: (b, d) -> (b, classes)."""

    def __init__(self, linear: nn.Linear, *, parts: int) -> None:
        super().__init__()
        self.parts, self.classes = parts, linear.out_features
        self.linear = linear  # widened rather than replaced: whatever is tapped of it stays so
        linear.out_features *= parts
        linear.weight = nn.Parameter(linear.weight.new_empty(linear.out_features, linear.in_features))
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.weight.new_empty(linear.out_features))
        linear.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)
        return torch.logsumexp(logits.unflatten(-1, (self.classes, self.parts)), -1)


class Place(nn.Module):
    """The path of a head, as an objective's state."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


def graft(net: Net, kind: type[Head], make: Callable[[nn.Linear], Head]) -> tuple[str, Head]:
    """Put make(linear) where the net's last linear layer was; its path, and itself. One of this kind that is there
    already, from an earlier run, stays."""
    last = net.last("student")
    path = next(path for path, layer in net.module.named_modules() if layer is last)
    if not path:
        raise SettingError(f"a {kind.__name__} takes the place of a layer; this model is one: nn.Sequential(model)")
    for place in (path, path.rpartition(".")[0]):
        there = net.module.get_submodule(place)
        if place and isinstance(there, kind):
            return place, there
    linear = net.layer(path, "student")
    if not isinstance(linear, nn.Linear):
        raise SettingError(
            f"a {kind.__name__} takes the place of an nn.Linear, and {path!r} is a {type(linear).__name__}"
        )
    head = make(linear)
    parent, _, name = path.rpartition(".")
    setattr(net.module.get_submodule(parent), name, head)
    return path, head
