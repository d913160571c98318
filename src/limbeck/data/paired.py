"""The same texts in the tokens of the student and in those of a teacher with another tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.align import NONE, Piece, align, pieces
from limbeck.data import View, given
from limbeck.data.named import UNLABELLED
from limbeck.data.text import Tokenizer, Tokens, as_tokenizer, completed, several
from limbeck.errors import DataError

__all__ = ["Paired"]


class Paired(Tokens):
    """Tokens of the student, as `Tokens`, and of the teacher: it reads the same bytes in its own tokens, so that
    `step.teacher("x")` has a row for each of them. An objective that compares row with row does not fit (see
    blocks.alignment).

    The inputs have beside "input_ids": "chunk" (n, length), the number of the run of bytes that a token is in where
    both tokenizations agree on its start and end, NONE for a run that is not predicted whole; "teacher.input_ids",
    "teacher.y" and "teacher.chunk" (n, m). The mask "chunks" is True at the student's last token of each chunk.
    """

    def __init__(
        self, x: Mapping[str, Tensor], y: Tensor, tokenizer: Tokenizer, teacher: Tokenizer, **settings: Any
    ) -> None:
        masks = {"chunks": last_of(x["chunk"]), **(settings.pop("masks", None) or {})}
        views = {"x": own_tokens, **(settings.pop("views", None) or {})}
        super().__init__(x, y, tokenizer, masks=masks, views=views, **settings)
        self.teacher_tokenizer = teacher
        self.speak = {"teacher": teacher.vocab_size}

    @classmethod
    def packed(  # type: ignore[override]
        cls, texts: Iterable[str], tokenizer: Tokenizer, length: int, *, teacher: Tokenizer, **settings: Any
    ) -> Paired:
        """Texts one after the other, an end of text behind each, in blocks of at most `length` of the student's tokens
        that start and end where both tokenizations agree; the teacher's are as long as that takes. Every token of a
        block but the first is predicted.

        Raises DataError where a tokenizer does not spell the text, or where the two do not agree within a block.
        """
        tokenizer, teacher = as_tokenizer(tokenizer), as_tokenizer(teacher)
        aligned = Aligner(tokenizer, teacher)
        found = [aligned(text) for text in several(texts)]
        if not found:
            raise DataError("there is no text")
        ids = [torch.cat([each.ids[side] for each in found]) for side in (0, 1)]
        sizes = [np.concatenate([np.bincount(each.chunks[side]) for each in found]) for side in (0, 1)]
        ends = [np.concatenate([[0], side.cumsum()]) for side in sizes]  # of each chunk, in tokens
        bounds = [0]
        while bounds[-1] < len(sizes[0]):
            bounds.append(int(np.searchsorted(ends[0], ends[0][bounds[-1]] + length, side="right")) - 1)
            if bounds[-1] == bounds[-2]:
                raise DataError(
                    f"the tokenizers do not agree within {sizes[0][bounds[-1]]} tokens, and a block has {length}: take "
                    f"longer blocks"
                )
        rows = []
        for first, last in pairwise(bounds):
            row = []
            for side in (0, 1):
                own = ids[side][ends[side][first] : ends[side][last]]
                chunk = torch.from_numpy(np.repeat(np.arange(last - first), sizes[side][first:last]))
                row.append(Side(own, own, torch.where(chunk > 0, chunk, NONE)))  # the first has no prediction
            rows.append(row)
        return cls.of_rows(rows, tokenizer, teacher, length, **settings)

    @classmethod
    def pairs(  # type: ignore[override]
        cls,
        pairs: Iterable[tuple[str, str]],
        tokenizer: Tokenizer,
        length: int,
        *,
        teacher: Tokenizer,
        **settings: Any,
    ) -> Paired:
        """(prompt, completion) texts, an end of text behind each: padded on the right, the student's cut at `length`
        tokens. Only the completion and its end are predicted. Raises DataError as `packed` and `Tokens.pairs`."""
        tokenizer, teacher, pairs = as_tokenizer(tokenizer), as_tokenizer(teacher), list(pairs)
        plain = Tokens.pairs(pairs, tokenizer, length)
        aligned, rows = Aligner(tokenizer, teacher), []
        for (prompt, completion), y in zip(pairs, given(plain.y), strict=True):
            both = [completed(maker, prompt, completion) for maker in (tokenizer, teacher)]
            after, row = aligned.of([ids for _, ids in both], completion), []
            start = int((y != UNLABELLED).int().argmax())
            whole = start + len(after.ids[0]) <= length
            known = after.chunks[0].max() + 1 if whole else int(after.chunks[0][length - start])  # chunks not cut
            for side in (0, 1):
                before = torch.tensor(both[side][0])
                nothing = torch.full_like(before, UNLABELLED)
                ids, chunk = after.ids[side], after.chunks[side]
                chunk = torch.where(chunk < known, chunk, NONE)
                row.append(Side(torch.cat([before, ids]), torch.cat([nothing, ids]), torch.cat([nothing, chunk])))
            rows.append(row)
        return cls.of_rows(rows, tokenizer, teacher, length, **settings)

    @classmethod
    def of_rows(
        cls, rows: Sequence[Sequence[Side]], tokenizer: Tokenizer, teacher: Tokenizer, length: int, **settings: Any
    ) -> Paired:
        found = {}
        for side, (name, end) in enumerate((("", tokenizer.end), ("teacher.", teacher.end))):
            sides = [row[side] for row in rows]
            for key, fill in (("input_ids", end), ("y", UNLABELLED), ("chunk", NONE)):
                padded = pad_sequence([getattr(each, key) for each in sides], batch_first=True, padding_value=fill)
                found[name + key] = padded if name else fitted(padded, length, fill)
        return cls(found, found.pop("y"), tokenizer, teacher, **settings)

    def with_views(self, **views: View) -> Paired:
        views, masks = {**self.views, **views}, self.masks
        return Paired(self.x, given(self.y), self.tokenizer, self.teacher_tokenizer, views=views, masks=masks)


@dataclass(frozen=True)
class Side:
    """Tokens of one text in one tokenization, each (length,)."""

    input_ids: Tensor
    y: Tensor
    chunk: Tensor


@dataclass(frozen=True)
class Aligned:
    ids: tuple[Tensor, Tensor]
    chunks: tuple[Tensor, Tensor]


class Aligner:
    """A text and its end in both tokenizations, and the chunk of each token."""

    def __init__(self, tokenizer: Tokenizer, teacher: Tokenizer) -> None:
        self.tokenizers = tokenizer, teacher
        self.pieces: list[list[Piece]] = [pieces(each) for each in self.tokenizers]

    def __call__(self, text: str) -> Aligned:
        return self.of([[*each.encode(text), each.end] for each in self.tokenizers], text)

    def of(self, ids: Sequence[Sequence[int]], text: str) -> Aligned:
        """Of a text whose tokens are known."""
        chunks = align(*([said[i] for i in own] for said, own in zip(self.pieces, ids, strict=True)))
        if any(bool((chunk == NONE).any()) for chunk in chunks):
            raise DataError(
                f"the two tokenizers do not spell this text alike: {text[:60]!r}. Train those of characters on all "
                f"texts, or take byte-level ones"
            )
        return Aligned((torch.tensor(ids[0]), torch.tensor(ids[1])), chunks)


def own_tokens(x: Mapping[str, Any], draw: Any) -> dict[str, Any]:
    """The view of the student's tokens alone."""
    return {"input_ids": x["input_ids"]}


def last_of(chunk: Tensor) -> Tensor:
    """(n, length) chunks of tokens -> True at the last token of each."""
    after = torch.cat([chunk[:, 1:], torch.full_like(chunk[:, :1], NONE)], 1)
    return (chunk != NONE) & (chunk != after)


def fitted(padded: Tensor, length: int, fill: int) -> Tensor:
    """Cut or padded to this length."""
    more = padded.new_full((len(padded), max(0, length - padded.shape[1])), fill)
    return torch.cat([padded[:, :length], more], 1)
