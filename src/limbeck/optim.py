"""Optimisers as values: settings that print, and build torch's own optimiser when the parameters are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from limbeck.schedules import Schedule


class Optim(Protocol):
    """Any value with a learning rate (a number or a schedule) and a `build`."""

    @property
    def lr(self) -> float | Schedule: ...

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, in torch's fused form for float32 and float64: on the CPU that of
    smaller types leaves weights as they are (pytorch/pytorch#191763)."""

    lr: float | Schedule
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        return torch.optim.SGD(
            parameters,
            lr=0.0,  # set before every step
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=all(parameter.dtype.itemsize >= 4 for parameter in parameters),
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), in torch's fused form."""

    lr: float | Schedule
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, lr=0.0, betas=self.betas, weight_decay=self.weight_decay, eps=self.eps, fused=True
        )
