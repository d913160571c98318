"""How much an example counts: frozen values for `Weighted(objective, by=...)`, called with the step, (rows,) out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.losses.inputs import probabilities
from limbeck.losses.logit import cross_entropy

if TYPE_CHECKING:
    from limbeck.step import Step


@dataclass(frozen=True)
class TeacherConfidence:
    """The teacher's largest probability, in (0, 1]."""

    def __call__(self, step: Step) -> Tensor:
        return probabilities(step.teacher("x").logits).amax(-1)


@dataclass(frozen=True)
class TeacherEntropy:
    """The teacher's entropy as a share of the largest possible one, in [0, 1]: hard examples count more."""

    def __call__(self, step: Step) -> Tensor:
        logits = step.teacher("x").logits
        return cross_entropy(logits, probabilities(logits)) / math.log(logits.shape[-1])


@dataclass(frozen=True)
class TeacherRight:
    """1 where the teacher's first choice is the label, else 0; 1 where there is no label."""

    def __call__(self, step: Step) -> Tensor:
        right = step.teacher("x").logits.argmax(-1) == step.y
        return (right | (step.y == UNLABELLED)).float()


@dataclass(frozen=True)
class SampledMass:
    """What the estimate in a sampled record (`limbeck.records.Sampled` with t != 1) sums to: it takes the place of the
    softmax's division in a KL of temperature tau, whose gradient is then unbiased."""

    tau: float = 1.0

    def __call__(self, step: Step) -> Tensor:
        return (step.teacher("x").logits / self.tau).logsumexp(-1).exp()
