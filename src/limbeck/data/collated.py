"""Examples as transformers has them: a data set, and a collator that puts some of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck.data import IGNORED, Batch, Data, as_labels, plain
from limbeck.data.text import HuggingFace
from limbeck.errors import SettingError

if TYPE_CHECKING:
    from limbeck.run import Run

INDEX = ".index"  # where a collated batch has the ids of its examples

Collator = Callable[[list[Any]], Any]


class Numbered(Dataset[Any]):
    """Examples that know their ids."""

    def __init__(self, examples: Any) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {**self.examples[i], INDEX: i}


def collate(inner: Collator, examples: Sequence[Mapping[str, Any]]) -> Any:
    """By the inner collator; ids, where there are any, go past it."""
    index = [example[INDEX] for example in examples if INDEX in example]
    batch = inner([{name: part for name, part in example.items() if name != INDEX} for example in examples])
    return {**batch, INDEX: torch.tensor(index)} if index else batch


class Collated(Data):
    """What a collator makes of some examples, as data of a run.

    Its `labels` are of examples (b,), or of tokens (b, n): those of `input_ids`, or in sequence to sequence those that
    the decoder is to say. -100 is no label. tokenizer: transformers', if there is one.
    """

    run: Run  # set by whoever makes both

    def __init__(self, examples: Numbered, collator: Collator, tokenizer: Any) -> None:
        super().__init__(examples)
        self.collator = collator
        if getattr(tokenizer, "eos_token_id", None) is not None:
            self.tokenizer = HuggingFace(tokenizer)

    def batches(self, ids: Sequence[Tensor], *, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        for index in ids:
            yield self.batch(self.collator([self.x[i] for i in index.tolist()]))

    def batch(self, inputs: Mapping[str, Any]) -> Batch:
        """Of what the collator made; examples without ids are others than these."""
        inputs = dict(inputs)
        model: Any = self.run.students[0].module
        y, index = inputs.pop("labels", None), inputs.pop(INDEX, None)
        if index is None:
            if any(hasattr(teacher, "lookup") for teacher in self.run.teachers):
                raise SettingError("a record is of the training examples: set eval_strategy='no', or run the teacher")
            index = torch.arange(len(next(iter(inputs.values()))))
        tokens = y is not None and y.dim() > 1
        if tokens and model.config.is_encoder_decoder:  # the decoder reads a start, and then what it is to say
            y = F.pad(y, (0, 1), value=IGNORED)
            inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=y)
            y = y.roll(1, 1)
        if y is not None:
            y = as_labels(y)
        vocabulary = self.vocabulary if tokens else None
        return Batch(inputs, y, index, views={"x": plain}, seed=self.run.seed, vocabulary=vocabulary)

    @cached_property
    def vocabulary(self) -> int | None:
        """How many tokens all models have logits for."""
        models = [model for model in [*self.run.students, *self.run.teachers] if isinstance(model, nn.Module)]
        parts: list[Any] = [part for model in models for part in model.modules()]
        parts = [part for part in parts if hasattr(part, "get_output_embeddings")]
        heads = [head for part in parts if (head := part.get_output_embeddings()) is not None]
        return min((len(head.weight) for head in heads), default=None)
