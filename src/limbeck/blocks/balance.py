"""Terms of a loss whose gradients are brought to one size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError, nearest
from limbeck.objective import Composite, Objective, Term, Terms, as_terms
from limbeck.step import Step

if TYPE_CHECKING:
    from limbeck.run import Run


@dataclass(frozen=True)
class GradMag(Composite):
    """An objective whose terms weigh 1 over the length of their gradient at one layer, the weights summing to 1
    (Minixhofer et al. 2025, arXiv:2503.20083, and the authors' multitask.py, "approx_gradmag_preserve_mag"): weights
    that they had change the size of the sum alone. A term without a gradient weighs nothing.

    layer: path in the first student; the authors take the last one before the head. It costs a backward pass from
    there to the loss for each term. The lengths are those of a micro-batch.
    """

    objective: Objective
    layer: str

    couples: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[Objective, ...]:
        return (self.objective,)

    def init(self, run: Run) -> nn.Module:
        parameters(run, self.layer)
        return super().init(run)

    def loss(self, step: Step, state: Any) -> Terms:
        terms = as_terms(self.objective.loss(step, state[0]))
        at = parameters(step.run, self.layer)
        inverse = torch.stack([inverse_length(term, step, at) for term in terms.values()])
        weights = inverse / inverse.sum().clamp(min=torch.finfo(inverse.dtype).tiny)
        return {
            name: replace(term, value=weight * term.value)
            for (name, term), weight in zip(terms.items(), weights, strict=True)
        }


def inverse_length(term: Term, step: Step, at: list[Tensor]) -> Tensor:
    """1 / length of the gradient, 0 where there is none; equal for all where none is taken, as in the dry step."""
    part = term.part(step)
    if not torch.is_grad_enabled():
        return torch.ones_like(part, dtype=torch.float32)
    if not part.requires_grad:
        return torch.zeros_like(part, dtype=torch.float32)
    found = torch.autograd.grad(part, at, retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in found if gradient is not None]
    length = torch.stack(squares).sum().sqrt() if squares else torch.zeros_like(part, dtype=torch.float32)
    return torch.where(length > 0, 1 / (length + 1e-8), 0.0)


def parameters(run: Run, layer: str) -> list[Tensor]:
    module = run.students[0].module
    layers = dict(module.named_modules())
    found = [each for each in layers[layer].parameters() if each.requires_grad] if layer in layers else []
    if not found:
        raise SettingError(f"the student has no layer {layer!r} that trains; {nearest(layer, layers)}")
    return found
