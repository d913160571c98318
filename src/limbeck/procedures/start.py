"""Where a student starts: at its teacher, or near it."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from limbeck.errors import SettingError

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def blend(teacher: Model, fresh: Model, weights: tuple[float, float], *, same_variance: bool = False) -> Model:
    """A trainable copy with the parameters w0 teacher + w1 fresh, and the teacher's buffers (Sarnthein et al. 2023,
    Random Teachers, configuration.py).

    fresh: a network of the same form with another random start. weights: (1 - a, a) is the authors' "interpolated",
        (1, eps) their "neighborhood"; (1, 0) is the teacher itself, whose student is then moved by batch
        normalisation alone: without it the gradient is zero. same_variance: divide by sqrt(w0^2 + w1^2), so that a
        mixture of two random starts has the variance of one.
    """
    scale = math.hypot(*weights) if same_variance else 1.0
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    own, other = dict(student.named_parameters()), dict(fresh.named_parameters())
    if {name: p.shape for name, p in own.items()} != {name: p.shape for name, p in other.items()}:
        raise SettingError("the fresh network has other parameters than the teacher: build both alike")
    for name, p in own.items():
        p.copy_((weights[0] * p + weights[1] * other[name]) / scale)
    return student


def thinned(teacher: Model, every: int, *, layers: str) -> Model:
    """A trainable copy with every `every`-th layer: the last of each group of so many (Ansell et al. 2023, BiStil).

    layers: path of the list of layers, "blocks" in our GPT, "encoder.layer" in BertModel.
    """
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    stack = student.get_submodule(layers)
    if not isinstance(stack, nn.ModuleList | nn.Sequential) or every < 1 or len(stack) % every:
        raise SettingError(f"{layers!r} is no list of layers whose number can be divided by every={every}: {stack}")
    for i in reversed(range(len(stack))):
        if i % every != every - 1:
            del stack[i]
    if hasattr(getattr(student, "config", None), "num_hidden_layers"):
        student.config.num_hidden_layers = len(stack)  # type: ignore[union-attr]
    for i, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which transformers' attention finds its cache
                module.layer_idx = i  # type: ignore[assignment]
    return student
