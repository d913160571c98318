"""What losses do with their inputs first."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.signals import same_shape


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def directions(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Rows over their lengths, in float32 at least; one shorter than 1e-12 has no direction: 0, and no gradient, where
    F.normalize would give it one times 1e12."""
    x = wide(x)
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / lengths.masked_fill(lengths < 1e-12, torch.inf)


def probabilities(logits: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """Their softmax, in float32 at least."""
    return wide(logits).softmax(-1)


def comparable(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float = 1.0
) -> tuple[Float[Tensor, "*b c"], Float[Tensor, "*b c"]]:
    """Both in float32 at least, once their shapes and the temperature are found to make sense."""
    if tau <= 0:
        raise SettingError(f"a temperature is positive; got tau={tau}")
    same_shape("logits", student, teacher, "both must tell the same classes apart: rebuild the head of one of them")
    return wide(student), wide(teacher)


def log_probabilities(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float
) -> tuple[Float[Tensor, "*b c"], Float[Tensor, "*b c"]]:
    """log softmax(logits / tau) of both, in float32 at least."""
    student, teacher = comparable(student, teacher, tau=tau)
    return softened(student, tau).log_softmax(-1), softened(teacher, tau).log_softmax(-1)


def softened(logits: Tensor, tau: float) -> Tensor:
    """logits / tau, without a copy where that is the same."""
    return logits if tau == 1 else logits / tau
