"""A method of one's own in one file: write the loss, register the method, use it by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck import CE, Objective, Run, Step, find, method
from limbeck.data import load
from limbeck.models import build


@dataclass(frozen=True)
class Chebyshev(Objective):
    """The largest absolute difference of the softened probabilities: the class that differs most."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> dict[str, Tensor]:
        student, teacher = ((model("x").logits / self.tau).softmax(1) for model in (step.student, step.teacher))
        return {"chebyshev": (student - teacher).abs().amax(1)}


@method(paper="-", needs=("teacher", "labels"))
def chebyshev(*, tau: float = 2.0, weight: float = 4.0) -> Objective:
    """Match the teacher's softened probabilities where they differ most."""
    return CE() + weight * Chebyshev(tau)


def main(epochs: int = 20) -> dict[str, Any]:
    train, test = load("digits")
    torch.manual_seed(0)
    teacher = build("cnnx2", channels=1, classes=10, size=8)
    student = build("cnn", channels=1, classes=10, size=8)
    settings: dict[str, Any] = {"data": train, "test": test, "epochs": epochs}
    Run(student=teacher, method=find("supervised")(), **settings).fit()
    objective = find("chebyshev")(tau=4.0)
    row = Run(student=student, teacher=teacher, method=objective, **settings).fit()[-1]
    print(f"{objective}: accuracy {row['accuracy']:.1%}, agreement with the teacher {row['agreement']:.1%}")
    return row


if __name__ == "__main__":
    main()
