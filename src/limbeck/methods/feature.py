"""Methods that match what a teacher's layers show."""

from __future__ import annotations

from limbeck.blocks.feature import AttentionTransfer, Hint, Layer
from limbeck.blocks.logit import CE, KL
from limbeck.objective import Objective, Stages
from limbeck.registry import method
from limbeck.schedules import Ramp


@method(
    paper="Romero et al. 2015, arXiv:1412.6550",
    needs=("teacher",),
    example={"layer": "layer2", "hint_epochs": 1},
)
def fitnet(*, layer: Layer, hint_epochs: int, tau: float = 3.0, start: float = 4.0, end: float = 1.0) -> Objective:
    """First match the teacher's middle layer, then distil.

    loss = mean (r(f) - f_teacher)^2 in the first stage,  f: the layer's features,  r: a learnt bridge
    loss = CE(y, q) + lambda KL(p_tau || q_tau) in the second,  lambda falls from start to end

    Stage 1 takes `hint_epochs` and trains up to `layer` (both models' middle layer in the paper) through a learnt
    bridge; stage 2 is CE + lambda H(teacher, student) with lambda falling linearly from 4 to 1 and tau = 3, as in the
    paper. Its soft term has no tau^2, hence the division; H and KL differ by a constant.
    """
    return Stages(
        (
            (Hint(layer), hint_epochs),
            (CE() + Ramp(start / tau**2, end / tau**2) * KL(tau), None),
        )
    )


@method(
    paper="Zagoruyko & Komodakis 2017, arXiv:1612.03928",
    needs=("teacher",),
    example={"layers": ("layer1", "layer2", "layer3")},
)
def attention_transfer(*, layers: tuple[Layer, ...], beta: float = 1000.0) -> Objective:
    """Match where the layers of both models are active.

    loss = CE(y, q) + beta sum_layers mean (a - a_teacher)^2,  a: squares summed over channels, as a unit vector
    """
    return CE() + beta * AttentionTransfer(tuple(layers))
