"""A classifier that stays as it is, with a temperature for each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import SettingError
from limbeck.teachers import Frozen


class Calibrated(nn.Module):
    """A frozen classifier's logits, divided by a temperature in [0.1, 10] that a tiny network reads off the scores of
    transformed copies of the example: their probabilities of the example's own `top` classes (Liu et al. 2024). The
    first choice never changes.

    copies: functions of the inputs; the paper's are rotation, greyscale and colour jitter.

    The last bias starts at 1.5, so that the clamp lets a gradient through (the authors' code leaves that to chance).
    Their second output, a guess of correctness whose loss is not used, is left out.
    """

    def __init__(
        self, classifier: nn.Module, copies: Sequence[Callable[[Tensor], Tensor]], *, top: int = 4, hidden: int = 5
    ) -> None:
        super().__init__()
        if not copies:
            raise SettingError("the temperature is read off transformed copies: give at least one function of x")
        self.classifier = Frozen(classifier)
        self.copies, self.top = tuple(copies), top
        last = nn.Linear(hidden, 1)
        nn.init.constant_(last.bias, 1.5)
        self.head = nn.Sequential(nn.Linear(top * len(copies), hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x).logits
        first = logits.topk(self.top).indices
        seen = [self.classifier(copy(x)).logits.softmax(-1).gather(-1, first) for copy in self.copies]
        temperature: Tensor = self.head(torch.cat(seen, -1)).clamp(0.1, 10.0)
        return logits / temperature
