"""Answers that were collected before training, as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from limbeck.errors import DataError, SettingError
from limbeck.signals import Output


class Answers:
    """A black box that was asked once: for each example its probability of "yes" to each question, looked up by id.

    probabilities: (n, questions) in [0, 1]. A language model's is sigmoid(l_yes - l_no) of its logits for the two
        words, each taken over all spellings (logsumexp). `.logits` are theirs, cut at 1e-6 from 0 and 1. Every view
        of an example has the same answers.
    """

    def __init__(self, probabilities: Tensor) -> None:
        if probabilities.dim() != 2 or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
            raise DataError(
                f"answers are probabilities (n, questions); got {tuple(probabilities.shape)} or outside [0, 1]"
            )
        self.logits = probabilities.float().logit(1e-6)  # stays where it is: only the rows of a batch travel

    def __call__(self, x: Any, view: str, index: Tensor) -> Output:
        return Output({".logits": self.logits[index.to(self.logits.device)].to(index.device)})

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        if names := list(names):
            raise SettingError(f"answers have logits only, no {names}: use a model as the teacher")
