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
