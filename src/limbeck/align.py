"""Two tokenizations of one text: which tokens of the one cover the same bytes as which tokens of the other.

student = [b"the", b" cat", "eos"]          # bytes: text; str: the role of a special token; None: padding
teacher = [b"th", b"e", b" cat", "eos"]
align(student, teacher)                     # the chunk of each token: [0, 1, 2] and [0, 0, 1, 2]
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.data.text import Tokenizer

#: What a token stands for: bytes of text, the role of a special token, such as "bos", or None for nothing.
Piece: TypeAlias = "bytes | str | None"

NONE = -1
"""The chunk of a token that is in none."""


def pieces(tokenizer: Tokenizer) -> list[Piece]:
    """What each token of a vocabulary stands for: the end of text has the role "end", what else has no bytes none."""
    return [
        "end" if token == tokenizer.end else tokenizer.spell(token) or None for token in range(tokenizer.vocab_size)
    ]


# --- alignment -------------------------------------------------------------------------------------------------------


def align(student: Sequence[Piece], teacher: Sequence[Piece]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """The chunk of each token, 0, 1, ... in order of the text, and NONE for a token that is in none.

    A chunk is a shortest run of tokens of both sides that starts and ends at the same bytes. A special token makes a
    chunk with one of the same role at the same place of the text, and is in none if there is no such. Spaces that one
    side has more at the start count as part of the other's first token. Chunks whose bytes differ are left out
    (Minixhofer et al. 2025, ALM, arXiv:2503.20083, and the authors' align.py, by the same greedy rule).
    """
    sides = _specials_as_bytes(_levelled(student, teacher))
    ends = [np.cumsum([len(piece) for piece in side], dtype=np.int64) for side in sides]
    filled = [np.array([len(piece) > 0 for piece in side], dtype=bool) for side in sides]
    common = np.intersect1d(ends[0][filled[0]], ends[1][filled[1]])
    if len(common) == 0:
        return torch.full((len(student),), NONE), torch.full((len(teacher),), NONE)
    streams = [np.frombuffer(b"".join(side), np.uint8)[: common[-1]] for side in sides]
    same = np.ones(len(common) + 1, dtype=bool)
    same[np.searchsorted(common, (streams[0] != streams[1]).nonzero()[0], side="right")] = False
    same[-1] = False  # whatever is behind the last common end
    number = np.where(same, same.cumsum() - 1, NONE)
    chunks = [
        torch.from_numpy(np.where(has, number[np.searchsorted(common, end)], NONE))
        for end, has in zip(ends, filled, strict=True)
    ]
    return chunks[0], chunks[1]


def align_batch(
    students: Sequence[Sequence[Piece]], teachers: Sequence[Sequence[Piece]]
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b m"]]:
    """`align` of each pair, filled up on the right with NONE."""
    both = [align(student, teacher) for student, teacher in zip(students, teachers, strict=True)]
    first, second = (pad_sequence(list(side), batch_first=True, padding_value=NONE) for side in zip(*both, strict=True))
    return first, second


def pairs(student: Int[Tensor, "b n"], teacher: Int[Tensor, "b m"]) -> Int[Tensor, "b n"]:
    """For the chunks of the tokens, as from `align_batch`: the place of the teacher's token that covers just the bytes
    of the student's token here, or NONE where one of them is cut into several."""
    top = int(torch.cat([student, teacher], 1).max()) + 2  # the first place is for NONE
    counts = [
        side.new_zeros(len(side), top).scatter_add_(1, side + 1, torch.ones_like(side)) for side in (student, teacher)
    ]
    alone = (counts[0] == 1) & (counts[1] == 1)
    alone[:, 0] = False
    places = torch.arange(teacher.shape[1], device=teacher.device).expand_as(teacher)
    places = torch.zeros_like(counts[1]).scatter_(1, teacher + 1, places)
    return torch.where(alone, places, NONE).gather(1, student + 1)


def _levelled(*sides: Sequence[Piece]) -> list[list[Piece]]:
    """Both with as many leading spaces: SentencePiece puts one before a text."""
    spaces = [_leading_spaces(side) for side in sides]
    levelled = []
    for side, own in zip(sides, spaces, strict=True):
        first = next((i for i, piece in enumerate(side) if isinstance(piece, bytes) and piece), None)
        copy = list(side)
        if first is not None:
            copy[first] = b" " * (max(spaces) - own) + side[first]  # type: ignore[operator]
        levelled.append(copy)
    return levelled


def _leading_spaces(side: Sequence[Piece]) -> int:
    count = 0
    for piece in side:
        if isinstance(piece, bytes):
            rest = piece.lstrip(b" ")
            count += len(piece) - len(rest)
            if rest:
                break
    return count


def _specials_as_bytes(sides: Sequence[Sequence[Piece]]) -> list[list[bytes]]:
    """Special tokens that both have at one place as bytes that no text has (0xFF is not in UTF-8), others as none."""
    places = [Counter(place for _, place in _specials(side)) for side in sides]
    translated = []
    for side in sides:
        left = places[0] & places[1]
        texts = [piece if isinstance(piece, bytes) else b"" for piece in side]
        for i, place in _specials(side):
            if left[place] > 0:
                left[place] -= 1
                texts[i] = b"\xff" + place[0].encode()
        translated.append(texts)
    return translated


def _specials(side: Sequence[Piece]) -> Iterator[tuple[int, tuple[str, int]]]:
    """Where each special token is, its role and how much text is before it."""
    done = 0
    for i, piece in enumerate(side):
        if isinstance(piece, bytes):
            done += len(piece)
        elif piece is not None:
            yield i, (piece, done)


# --- what a cut gives away -------------------------------------------------------------------------------------------


def biases(
    ends: Iterable[tuple[int, int]], tokenizers: Sequence[Tokenizer], shares: Sequence[Sequence[float]]
) -> list[float]:
    """How much it says of the text to come that it was cut behind these two tokens: for each pair, of which the one
    ends with the bytes of the other, the larger of two sums of shares, over the tokens that would have gone on
    beyond the cut in one tokenization and cannot in the other (Minixhofer et al. 2025, ALM, arXiv:2503.20083, and the
    authors' compute_tokenizer_info.py). As there 1 for a token of white space, and 0 for a special token.

    shares: of each token of either vocabulary in a text. Encodes some texts for each token: a large vocabulary takes
    minutes.
    """
    spelled = [pieces(tokenizer) for tokenizer in tokenizers]
    known = [sorted((piece, i) for i, piece in enumerate(own) if isinstance(piece, bytes)) for own in spelled]

    @cache
    def beyond(side: int, token: int) -> dict[bytes, float]:
        return _continuations(spelled[side][token], known[side], tokenizers[side], shares[side])  # type: ignore[arg-type]

    def bias(pair: tuple[int, int]) -> float:
        own = [side[i] for side, i in zip(spelled, pair, strict=True)]
        if not all(isinstance(piece, bytes) for piece in own):
            return 0.0
        if any(not piece.decode(errors="replace").strip() for piece in own):  # type: ignore[union-attr]
            return 1.0
        first, second = (beyond(side, token) for side, token in enumerate(pair))
        return max(sum(a[text] for text in a.keys() - b.keys()) for a, b in ((first, second), (second, first)))

    return [bias(pair) for pair in ends]


def _continuations(
    token: bytes, known: Sequence[tuple[bytes, int]], tokenizer: Tokenizer, shares: Sequence[float]
) -> dict[bytes, float]:
    """The bytes by which a last token can go on beyond this one's, where the text begins with it, and its share."""
    found = {}
    for start in range(len(token)):
        before, rest = token[:start], token[start:]
        for piece, i in known[bisect_left(known, (rest,)) : bisect_left(known, (rest + b"\xff",))]:
            try:
                if tokenizer.encode((before + piece).decode()) != [*tokenizer.encode(before.decode()), i]:
                    continue
            except UnicodeDecodeError:  # the text would be cut within a character
                continue
            if piece != rest:
                found[piece[len(rest) :]] = shares[i]
    return found


# --- vocabularies ----------------------------------------------------------------------------------------------------


def nearest_pieces(student: Sequence[Piece], teacher: Sequence[Piece]) -> Int[Tensor, " v"]:
    """For each piece of the student's vocabulary, which of the teacher's has the least edit distance in bytes; of
    several the one nearest in length, then the first. Special tokens go by role, NONE if the teacher has no such
    (Wan et al. 2024, FuseLLM, arXiv:2401.10491, "MinED")."""
    known: dict[Piece, int] = {}
    lengths: dict[int, list[int]] = defaultdict(list)
    for i, piece in enumerate(teacher):
        if piece is not None and known.setdefault(piece, i) == i and isinstance(piece, bytes):
            lengths[len(piece)].append(i)
    words = {  # all of one length, as a matrix
        length: (ids, np.frombuffer(b"".join(cast(bytes, teacher[i]) for i in ids), np.uint8).reshape(-1, length))
        for length, ids in lengths.items()
        if length > 0
    }

    def nearest(piece: Piece) -> int:
        if piece in known:
            return known[piece]
        if not isinstance(piece, bytes):
            return NONE
        best, least = NONE, np.inf
        for length in sorted(words, key=lambda length: abs(length - len(piece))):
            if abs(length - len(piece)) >= least:
                break
            ids, matrix = words[length]
            distances = edit_distances(piece, matrix)
            if distances.min() < least:
                best, least = ids[int(distances.argmin())], distances.min()
        return best

    return torch.tensor([nearest(piece) for piece in student])


def edit_distances(word: bytes, others: np.ndarray) -> np.ndarray:
    """Levenshtein distances (k,) of a word to `others` (k, length) uint8, all of one length."""
    k, length = others.shape
    steps = np.arange(length + 1)
    row = np.broadcast_to(steps, (k, length + 1))
    for i, byte in enumerate(word, start=1):
        new = np.full((k, length + 1), i)
        new[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (others != byte))
        row = np.minimum.accumulate(new - steps, axis=1) + steps  # insertions
    return row[:, -1]
