"""The gradient through one step of training, for settings that are learned on held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def lookahead_gradient(
    net: nn.Module,
    inner: Callable[[Callable[[Any], Any]], Tensor],
    outer: Callable[[Callable[[Any], Any]], Tensor],
    weights: Sequence[Tensor],
    *,
    lr: float,
) -> tuple[Tensor, ...]:
    """d outer(theta - lr d inner(theta, w) / d theta) / dw, for theta the net's parameters and w the `weights`: one
    step of plain gradient descent, unrolled (Ren et al. 2018, arXiv:1803.09050, equations 4-7; Shu et al. 2019,
    Meta-Weight-Net).

    inner, outer: losses of a function that stands for the net. weights: require gradient. The net's own parameters
    and buffers stay as they are: batch normalisation moves copies of its averages.
    """
    with torch.enable_grad():
        theta = {name: p.detach().requires_grad_() for name, p in net.named_parameters() if p.requires_grad}
        rest: dict[str, Tensor] = {name: p for name, p in net.named_parameters() if not p.requires_grad}
        rest |= {name: buffer.clone() for name, buffer in net.named_buffers()}

        def at(parameters: dict[str, Tensor]) -> Callable[[Any], Any]:
            return lambda x: functional_call(net, {**rest, **parameters}, (x,))

        slopes = torch.autograd.grad(inner(at(theta)), list(theta.values()), create_graph=True, materialize_grads=True)
        ahead = {name: p - lr * slope for (name, p), slope in zip(theta.items(), slopes, strict=True)}
        return torch.autograd.grad(outer(at(ahead)), list(weights), materialize_grads=True)
