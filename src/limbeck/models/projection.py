"""The projection of DINO, for methods that compare outputs that mean nothing."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Cosines(nn.Linear):
    """A linear layer of directions: the cosines of its input with its rows, whatever the lengths of both."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


def projection(
    width: int, *, hidden: tuple[int, ...] = (2048, 2048), bottleneck: int = 256, outputs: int = 65536
) -> nn.Sequential:
    """Linear layers with GELU, a bottleneck and its cosines with learned directions: (b, width) -> (b, outputs) (Caron
    et al. 2021, DINO; sizes of Sarnthein et al. 2023, Random Teachers, whose init_distill.py has ReLU).

    The student is `Net(nn.Sequential(encoder, projection(width)), head="1.0")`, whose embedding is the encoder's
    output: probe that.
    """
    sizes = (width, *hidden)
    layers: list[nn.Module] = []
    for inputs, size in pairwise(sizes):
        layers += [nn.Linear(inputs, size), nn.GELU()]
    layers += [nn.Linear(sizes[-1], bottleneck), Cosines(bottleneck, outputs, bias=False)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
