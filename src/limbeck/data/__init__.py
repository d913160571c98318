"""Examples with stable ids, in seeded batches, on views that can be replayed.

data -> Batch (raw inputs, labels, ids) -> batch.view("strong") -> models
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from functools import cached_property, partial
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from limbeck.data.draws import uniform
from limbeck.data.glosses import Texts, texts
from limbeck.data.named import UNLABELLED, Images, few_labels, load
from limbeck.data.views import Draw
from limbeck.errors import DataError, SettingError, SignalError, nearest

#: A view turns raw inputs into augmented ones; `draw(name, n)` gives (b, n) replayable uniforms.
View = Callable[[Any, Draw], Any]


IGNORED = -100
"""transformers' label of what does not count, taken for UNLABELLED."""


class Batch:
    """Some examples: raw inputs, labels (or None), ids, masks; views are made when they are asked for, once."""

    def __init__(
        self,
        inputs: Any,
        y: Tensor | None,
        index: Tensor,
        *,
        views: Mapping[str, View],
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        epoch: int = 0,
        vocabulary: int | None = None,
        speak: Mapping[str, int] | None = None,
        convert: Callable[[Any], Any] = lambda x: x,
    ) -> None:
        self.inputs, self.y, self.index = inputs, y, index
        self.vocabulary = vocabulary  # tokens that there are: a model may have logits for more, which are left out
        self.speak = speak or {}  # roles that read other tokens, and how many tokens they have: see `of`
        self.views, self.masks = views, dict(masks or {})
        self.seed, self.epoch = seed, epoch
        self.convert = convert  # to the run's precision
        self.recorded = True  # the data's own inputs: a record knows them
        self.made: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.index.shape[0]

    def view(self, name: str = "x") -> Any:
        """The inputs under a view, in floats: byte images are scaled to [0, 1]."""
        if name not in self.made:
            if name not in self.views:
                raise SignalError(
                    f"the data has no view {name!r}; {nearest(name, self.views)} "
                    f"Add one: Data(x, y, views={{{name!r}: strong()}})"
                )
            draw = lambda stream, n: uniform(  # noqa: E731
                self.seed, self.index, epoch=self.epoch, stream=f"{name}/{stream}", n=n
            )
            self.made[name] = self.convert(self.views[name](to_float(self.inputs), draw))
        return self.made[name]

    def of(self, role: str) -> Batch:
        """As the "student" or the "teacher" sees it: one with another tokenizer reads its own tokens of the same texts
        (`data.paired`), which make its rows."""
        if role not in self.speak:
            return self
        if f"{role}.input_ids" not in self.inputs:
            raise SettingError(f"the {role} reads other tokens than these, which the student wrote: take one tokenizer")
        inputs = {"input_ids": self.inputs[f"{role}.input_ids"]}
        y, views = self.inputs[f"{role}.y"], {"x": plain}
        return Batch(inputs, y, self.index, views=views, vocabulary=self.speak[role], convert=self.convert)

    @cached_property
    def positions(self) -> Tensor | None:
        """Where labels are of tokens, the rows of a step: (b, n) bool, True where the next token has a label. This is
        the one place where labels are shifted."""
        if self.y is None or self.y.dim() < 2:
            return None
        return F.pad(self.y[:, 1:] != UNLABELLED, (0, 1))

    @cached_property
    def predicted(self) -> Tensor | None:
        """(b, n) bool, the tokens at whose place before `positions` is True: those that have a label, but the first."""
        return None if self.positions is None else self.positions.roll(1, 1)

    @property
    def rows(self) -> int:
        """How many the step has: examples, or the tokens to be predicted."""
        return len(self) if self.positions is None else len(self.row_index)

    @cached_property
    def row_labels(self) -> Tensor | None:
        """(rows,)"""
        return self.y if self.y is None else self.row_of(self.y)

    @cached_property
    def row_index(self) -> Tensor:
        """(rows,) ids: of the examples, or of the tokens to be predicted."""
        if self.y is None or self.positions is None:
            return self.index
        n = self.y.shape[1]
        return self.row_of(self.index[:, None] * n + torch.arange(n, device=self.index.device))

    def row_of(self, x: Tensor) -> Tensor:
        """What belongs to each of the rows, of (b, ...) or, where labels are of tokens, of (b, n, ...): that of the
        token itself, not of the place before it, where it is predicted."""
        return x if self.predicted is None else x[self.predicted]

    def mask(self, name: str) -> Tensor:
        """A mask by name; "labelled" and "unlabelled" follow from the labels, "sequences" has each example."""
        if name not in self.masks:
            if name == "sequences":
                self.masks[name] = torch.ones(len(self), dtype=torch.bool, device=self.index.device)
                return self.masks[name]
            if name not in ("labelled", "unlabelled"):
                raise SignalError(
                    f"the batch has no mask {name!r}; "
                    f"{nearest(name, {*self.masks, 'labelled', 'sequences', 'unlabelled'})}"
                )
            y = self.row_labels
            labelled = (
                torch.zeros(len(self), dtype=torch.bool, device=self.index.device) if y is None else y != UNLABELLED
            )
            self.masks["labelled"], self.masks["unlabelled"] = labelled, ~labelled
        mask = self.masks[name]
        return self.row_of(mask) if mask.dim() > 1 else mask

    def valid(self) -> Batch:
        """Without the rows whose mask "valid" is False: they reach no model, no statistic and no loss."""
        if "valid" not in self.masks:
            return self
        rows = self.masks["valid"].nonzero().squeeze(1)
        masks = {name: mask[rows] for name, mask in self.masks.items() if name != "valid"}
        if len(rows) == len(self):
            return self.like(self.inputs, self.y, self.index, masks)
        y = None if self.y is None else self.y[rows]
        return self.like(pick(self.inputs, rows), y, self.index[rows], masks)

    def twin(self) -> Batch:
        """The same rows and views, made once for both, with masks of its own."""
        twin = copy.copy(self)
        twin.masks = dict(self.masks)
        return twin

    def to(self, move: Callable[[Any], Any]) -> Batch:
        """On another device."""
        masks = {name: move(mask) for name, mask in self.masks.items()}
        return self.like(move(self.inputs), None if self.y is None else move(self.y), move(self.index), masks)

    def like(self, inputs: Any, y: Tensor | None, index: Tensor, masks: Mapping[str, Tensor]) -> Batch:
        """Other rows with the same views and seeds."""
        settings = {name: getattr(self, name) for name in ("views", "seed", "epoch", "vocabulary", "speak", "convert")}
        return Batch(inputs, y, index, masks=masks, **settings)


class Data:
    """In-memory or map-style examples.

    x: a tensor (n, ...) or mapping of such, or a map-style Dataset whose items are `(input, label)`, `input`, or
        mappings with a key "label", "labels" or "y" (Hugging Face data sets too: lists of numbers become tensors).
    y: (n,) int64 class labels, UNLABELLED (-1) where there is none; None if x holds them, or there are none. For
        sequences of tokens (n, length): the token itself, UNLABELLED where it is not to be predicted, as in a prompt
        or in padding; a row of a step is then a token that has a label (see `Batch.positions`, and data.text).
        transformers' -100 is taken for UNLABELLED.
    views: name -> view of the raw inputs; "x" is always there.
    masks: name -> (n,) bool, e.g. "valid": rows that are False count nowhere.
    classes: their names, or how many there are.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor | None = None,
        *,
        views: Mapping[str, View] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        classes: Sequence[str] | int | None = None,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        y = None if y is None else as_labels(y)
        self.x, self.y = x, y
        self.in_memory = isinstance(x, Tensor | Mapping)
        self.views: dict[str, View] = {"x": plain, **(views or {})}
        self.masks = dict(masks or {})
        self.workers, self.collate = workers, collate
        self.speak: Mapping[str, int] = {}  # see Batch.of
        tokens = {part.shape for part in (x.values() if isinstance(x, Mapping) else [x]) if isinstance(part, Tensor)}
        if isinstance(x, Mapping):
            x = next(iter(x.values()))
        if isinstance(x, IterableDataset) or not isinstance(x, Sized) or not hasattr(x, "__getitem__"):
            raise DataError(
                f"examples need a length and stable ids; a {type(x).__name__} has none: pass a map-style Dataset"
            )
        self.num_examples = len(x)
        if self.num_examples == 0:
            raise DataError("the data set is empty: no example to train on")
        if y is not None and y.shape != (self.num_examples,) and not (y.dim() == 2 and y.shape in tokens):
            raise DataError(
                f"{self.num_examples} examples and labels of shape {tuple(y.shape)}: give one label each, or one for "
                f"each token (n, length)"
            )
        if y is not None and y.is_floating_point():
            raise DataError(f"labels are class numbers (int64); got {y.dtype}")
        if y is not None and "valid" in self.masks:
            valid = self.masks["valid"].view(-1, *[1] * (y.dim() - 1))
            self.y = torch.where(valid, y, UNLABELLED)  # whatever stands there, it is no label
        self.class_names = tuple(classes) if isinstance(classes, Sequence) else None
        self._classes = classes if isinstance(classes, int) else len(classes) if classes is not None else None

    def __len__(self) -> int:
        return self.num_examples

    @property
    def of_tokens(self) -> bool:
        """Has each token a label, not each example?"""
        return self.y is not None and self.y.dim() > 1

    @cached_property
    def ragged(self) -> bool:
        """Are labels of tokens, of texts that are not in memory and may be padded to any length?"""
        return not self.in_memory and self.example().positions is not None

    @property
    def num_rows(self) -> int:
        """Examples, or places of tokens: one more than the largest id of a row. Raises SettingError for `ragged` data,
        whose rows have no ids that stay."""
        if self.y is not None:
            return self.y.numel()
        if self.ragged:
            raise SettingError(
                "this method remembers every row, and here a row is a token of texts of any length: give data in "
                "memory, limbeck.data.text.Tokens, say"
            )
        return self.num_examples

    @property
    def num_classes(self) -> int | None:
        """As given, else the largest label + 1, else None."""
        if self._classes is None and self.y is not None and bool((self.y != UNLABELLED).any()):
            self._classes = int(self.y.max()) + 1
        return self._classes

    def with_views(self, **views: View) -> Data:
        """The same examples with these views added or replaced."""
        return Data(
            self.x,
            self.y,
            views={**self.views, **views},
            masks=self.masks,
            classes=self.class_names or self._classes,
            workers=self.workers,
            collate=self.collate,
        )

    def batches(self, ids: Sequence[Tensor], *, seed: int = 0, epoch: int = 0) -> Iterator[Batch]:
        """The batches with these ids, (b,) int64 each, in order."""
        source = self.slices(ids) if self.in_memory else self.loader(ids, seed, epoch)
        for index, (inputs, y) in zip(ids, source, strict=True):
            masks = {name: mask[index] for name, mask in self.masks.items()}
            if self.y is not None:
                y = self.y[index]
            vocabulary = self.num_classes if isinstance(y, Tensor) and y.dim() > 1 else None
            settings = {"seed": seed, "epoch": epoch, "vocabulary": vocabulary, "speak": self.speak}
            yield Batch(inputs, y, index, views=self.views, masks=masks, **settings)  # type: ignore[arg-type]

    def slices(self, ids: Sequence[Tensor]) -> Iterator[tuple[Any, Tensor | None]]:
        for index in ids:
            yield pick(self.x, index), None

    def loader(self, ids: Sequence[Tensor], seed: int, epoch: int) -> Iterator[tuple[Any, Tensor | None]]:
        items = SeededItems(self.x, seed, epoch)
        loader: DataLoader[Any] = DataLoader(
            items,
            batch_sampler=cast(Any, [index.tolist() for index in ids]),
            num_workers=self.workers,
            collate_fn=self.collate or stacked,
            # Else the loader would draw from the global generator, and a resumed run from another place of it.
            generator=torch.Generator().manual_seed(seed),
        )
        for item in loader:
            inputs, y = split_label(item)
            yield inputs, as_labels(y) if isinstance(y, Tensor) else y

    def example(self, rows: int = 2, *, seed: int = 0) -> Batch:
        """The first examples, for the dry step."""
        valid = self.masks.get("valid", torch.ones(self.num_examples, dtype=torch.bool))
        return next(self.batches([valid.nonzero().flatten()[:rows]], seed=seed))


class SeededItems(Dataset[Any]):
    """A Dataset whose random transforms depend on the seed, the epoch and the example alone, so they can be replayed,
    whatever the number of workers."""

    def __init__(self, items: Any, seed: int, epoch: int) -> None:
        self.items, self.seed, self.epoch = items, seed, epoch

    def __getitem__(self, i: int) -> Any:
        seed = mixed(self.seed, self.epoch, i)
        outer = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            item = self.items[i]
        random.setstate(outer[0])
        np.random.set_state(outer[1])
        return item


class Labelled(Protocol):
    num_examples: int
    y: Tensor | None


def plan(
    data: Labelled, batch_size: int, *, seed: int, epoch: int, unlabelled: float | None = None, shuffle: bool = True
) -> list[Tensor]:
    """The ids of each batch of an epoch: a function of seed and epoch alone, so a resumed run knows them.

    unlabelled: how many unlabelled examples go with each labelled one; a batch then has `batch_size` labelled rows
        and `round(unlabelled * batch_size)` others, and an epoch is one pass over the part that takes longer, while
        the other is shuffled anew as often as needed. None: all examples alike, each once.
    """
    generator = torch.Generator().manual_seed(mixed(seed, epoch))
    if unlabelled is None:
        order = torch.randperm(data.num_examples, generator=generator) if shuffle else torch.arange(data.num_examples)
        return list(order.split(batch_size))
    if data.y is None:
        raise SettingError("a ratio of unlabelled examples needs labels y with UNLABELLED in them")
    pools = [(data.y != UNLABELLED).nonzero().squeeze(1), (data.y == UNLABELLED).nonzero().squeeze(1)]
    sizes = [batch_size, round(unlabelled * batch_size)]
    if min(map(len, pools)) == 0 or min(sizes) == 0:
        raise SettingError(
            f"unlabelled={unlabelled} with batch_size={batch_size} needs both kinds of examples in a batch; "
            f"the data has {len(pools[0])} labelled and {len(pools[1])} unlabelled ones"
        )
    steps = max(-(-len(pool) // size) for pool, size in zip(pools, sizes, strict=True))
    rows = []
    for pool, size in zip(pools, sizes, strict=True):
        passes = -(-steps * size // len(pool))
        stream = torch.cat([pool[torch.randperm(len(pool), generator=generator)] for _ in range(passes)])
        rows.append(stream[: steps * size].view(steps, size))
    return list(torch.cat(rows, 1))


def as_data(source: Any, **settings: Any) -> Data:
    """Data, from what a user has: Data, `(x, y)` tensors, a tensor, Images, Texts, a Dataset or a DataLoader."""
    if isinstance(source, Data):
        return source
    if isinstance(source, Images | Texts):
        return Data(source.x, source.y, classes=source.classes, **settings)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], Tensor | Mapping):
        return Data(*source, **settings)
    if isinstance(source, DataLoader):
        if source.batch_sampler is None or not isinstance(source.sampler, RandomSampler | SequentialSampler):
            raise DataError(
                f"this DataLoader has its own sampler ({type(source.sampler).__name__}); the run draws its batches "
                f"itself, to resume and replay them: pass the loader's dataset"
            )
        collate = None if source.collate_fn is torch.utils.data.default_collate else source.collate_fn
        return Data(source.dataset, workers=source.num_workers, collate=collate, **settings)
    return Data(source, **settings)


def given(y: Tensor | None) -> Tensor:
    """The labels, for a method that cannot do without."""
    if y is None:
        raise SignalError("this method needs labels and the data has none: pass y, or take a method without CE()")
    return y


def mixed(*numbers: int) -> int:
    """One seed (32 bits) of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def plain(x: Any, draw: Draw) -> Any:
    """The view without augmentation."""
    return x


def field(name: str) -> View:
    """The view that is one field of the inputs, for data sets that make several views themselves."""
    return partial(_field, name)


def _field(name: str, x: Any, draw: Draw) -> Any:
    return x[name]


def to_float(x: Any) -> Any:
    return x.float().div_(255) if isinstance(x, Tensor) and x.dtype == torch.uint8 else x


def pick(x: Any, index: Tensor) -> Any:
    if isinstance(x, Mapping):
        return {key: pick(part, index) for key, part in x.items()}
    return tuple(pick(part, index) for part in x) if isinstance(x, tuple) else x[index]


def stacked(items: list[Any]) -> Any:
    """As torch does, but for lists of numbers in mappings, of which it would make a list of columns."""
    if isinstance(items[0], Mapping):
        items = [{name: as_tensor(part) for name, part in item.items()} for item in items]
    return torch.utils.data.default_collate(items)


def as_tensor(part: Any) -> Any:
    try:
        return torch.tensor(part) if isinstance(part, list) else part
    except (TypeError, ValueError, RuntimeError):  # of texts or images, or ragged
        return part


def as_labels(y: Tensor) -> Tensor:
    """With UNLABELLED where transformers has -100."""
    ignored = y == IGNORED
    return y.masked_fill(ignored, UNLABELLED) if bool(ignored.any()) else y


def split_label(item: Any) -> tuple[Any, Tensor | None]:
    """A collated item as inputs and labels."""
    if isinstance(item, Mapping):
        for key in ("label", "labels", "y"):
            if key in item:
                return {name: part for name, part in item.items() if name != key}, item[key]
        return dict(item), None
    if isinstance(item, tuple | list):
        inputs = item[0]
        if isinstance(inputs, list) and all(isinstance(part, Tensor) for part in inputs):
            inputs = tuple(inputs)  # torch's collate makes lists of tuples; a tuple is a model's arguments
        return (inputs, item[1]) if len(item) == 2 else (inputs, None)
    return item, None


__all__ = [
    "UNLABELLED",
    "Batch",
    "Data",
    "Draw",
    "Images",
    "Texts",
    "View",
    "as_data",
    "few_labels",
    "field",
    "given",
    "load",
    "plain",
    "plan",
    "texts",
]
