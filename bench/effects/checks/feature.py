"""Methods of the family feature."""

from __future__ import annotations

from bench.effects.core import Arms, check
from bench.effects.shots import SHOTS, accuracies

#: The authors' 1000 is for mean squares over CIFAR's maps of 32 x 32 and less; these are 14 x 14 and less.
BETA = 1000 * (14 / 32) ** 2
ATTENTION = f"attention_transfer(layers=('layer1', 'layer2', 'layer3'), beta={BETA})"


@check(
    "attention_transfer",
    baseline="supervised",
    claim="better than the labels alone",
    settings={**SHOTS, "beta": BETA},
)
def attention_transfer(seed: int) -> Arms:
    return accuracies(seed, ATTENTION, "supervised", "kd", features=True)


HINTED = "fitnet(layer='layer2', hint_epochs=10)"
ITS_SECOND_STAGE = "CE() + Ramp(4 / 9, 1 / 9) * KL(3.0)"


@check(
    "fitnet",
    baseline=ITS_SECOND_STAGE,
    claim="hints first are better than the same distillation all along, for a student deeper and thinner",
    settings={**SHOTS, "student": "resnet8", "hint_epochs": 10},
)
def fitnet(seed: int) -> Arms:
    return accuracies(seed, HINTED, ITS_SECOND_STAGE, "supervised", features=True, students=("resnet8",))
