"""Texts as tokens: tokenizers, packed blocks, prompts with completions, and the standard library's source."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from limbeck.data import Data, View, given
from limbeck.data.named import UNLABELLED
from limbeck.errors import DataError, SettingError

__all__ = ["BPE", "Bytes", "Characters", "Tokenizer", "Tokens", "python_source", "speller"]


class Tokenizer(Protocol):
    """Text to ids and back. `end` marks the end of a text and stands for no character."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def end(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def spell(self, token: int) -> bytes:
        """What a token stands for; nothing for a special one."""
        ...


class Bytes:
    """Bytes of UTF-8, and the end of text."""

    vocab_size, end = 257, 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != self.end).decode(errors="replace")

    def spell(self, token: int) -> bytes:
        return b"" if token == self.end else bytes([token])


class Characters:
    """The characters of some text, in their order; others become U+FFFD."""

    def __init__(self, text: str) -> None:
        self.characters = sorted({*text, "\ufffd"})
        self.places = {character: i for i, character in enumerate(self.characters)}

    @property
    def vocab_size(self) -> int:
        return len(self.characters) + 1

    @property
    def end(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        other = self.places["\ufffd"]
        return [self.places.get(character, other) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[i] for i in ids if i != self.end)

    def spell(self, token: int) -> bytes:
        return b"" if token == self.end else self.characters[token].encode()


class BPE:
    """Byte-level byte-pair encoding, of the tokenizers library (extra `[text]`).

    BPE.train(texts, 1000) learns one of up to 1000 tokens, the end of text among them; `save(path)` and `BPE.load`.
    """

    END = "<|endoftext|>"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BPE:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if vocab_size < 257:
            raise SettingError(f"a vocabulary holds all bytes and the end of text, 257 at least; got {vocab_size}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[cls.END], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path | str) -> BPE:
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    def save(self, path: Path | str) -> None:
        self.tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def end(self) -> int:
        return int(self.tokenizer.token_to_id(self.END))

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def spell(self, token: int) -> bytes:
        return b"" if token == self.end else unwritten(self.tokenizer.id_to_token(token))


class HuggingFace:
    """A tokenizer of transformers: byte-level as GPT-2's or Llama 3's, or of SentencePiece as Llama 2's or Gemma's.
    Others, such as BERT's, can be learnt with, but do not say which bytes a token stands for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise SettingError("this tokenizer has no end of text: set tokenizer.eos_token")

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @property
    def end(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def spell(self, token: int) -> bytes:
        return self.spelled[token]

    @cached_property
    def spelled(self) -> list[bytes]:
        """What each token stands for; nothing for a special one, and for a number without a token."""
        added, special = self.tokenizer.added_tokens_decoder, set(self.tokenizer.all_special_ids)
        tokens = {i: token for token, i in self.tokenizer.get_vocab().items() if i not in special}
        learnt = [token for i, token in tokens.items() if i not in added]
        if any("\u2581" in token for token in learnt):  # first: byte-level BPE never writes it
            spelling = sentencepiece
        elif any("\u0120" in token for token in learnt):
            spelling = unwritten
        else:
            raise SettingError(
                "this tokenizer does not say where its spaces are: take a byte-level one, or one of SentencePiece"
            )
        found = {i: spelling(token) for i, token in tokens.items() if i not in added}
        found |= {i: token.content.encode() for i, token in added.items() if i in tokens and not token.special}
        return [found.get(i, b"") for i in range(self.vocab_size)]


@cache
def written() -> dict[str, int]:
    """Byte-level BPE writes each byte as a printable character (GPT-2): printable bytes as they are, the others in
    order from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def unwritten(token: str) -> bytes:
    return bytes(written()[character] for character in token)


def sentencepiece(token: str) -> bytes:
    """SentencePiece writes a space as U+2581, and a byte that is no character of its own as <0x0A>."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("\u2581", " ").encode()


def completed(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and of its completion and the end of text: those of the text that they are together, if
    it starts with the prompt's, else each on its own, without the space that some tokenizers put before a text."""
    for start in (prompt, "", *STARTS):
        before, both = tokenizer.encode(start), tokenizer.encode(start + completion)
        after = both[len(before) :]
        if both[: len(before)] == before and (start or not prompt or not led(tokenizer, after, completion)):
            # The first token of all is predicted from nothing else.
            return tokenizer.encode(prompt) or [tokenizer.end], [*after, tokenizer.end]
    raise DataError(
        f"this tokenizer puts a space before {completion[:20]!r} wherever it stands: let the prompt end before a space"
    )


STARTS = "\n", ".", "0", "a"
"""Texts that a completion may go on with, so that no space is put before it."""


def led(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> bool:
    """Are there spaces before a text that it has not itself?"""
    spelled = b"".join(map(tokenizer.spell, ids))
    return len(spelled) - len(spelled.lstrip(b" ")) > len(text) - len(text.lstrip(" "))


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """Ours as they are, and those of transformers."""
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return HuggingFace(tokenizer)
    if not all(hasattr(tokenizer, name) for name in ("vocab_size", "end", "encode", "decode", "spell")):
        raise SettingError(
            f"a tokenizer is of limbeck.data.text or of transformers; got a {type(tokenizer).__name__}. BPE(tokenizer) "
            f"takes one of the tokenizers library"
        )
    return tokenizer  # type: ignore[no-any-return]


def several(texts: Iterable[str]) -> Iterable[str]:
    """Not one, whose characters would be taken for texts."""
    if isinstance(texts, str):
        raise DataError("this is one text, and a list of them is asked for: write [text]")
    return texts


def speller(tokenizer: Tokenizer) -> Tensor:
    """(vocab_size,) how many bytes each token stands for: perplexities become bits per byte."""
    return torch.tensor([len(tokenizer.spell(token)) for token in range(tokenizer.vocab_size)])


class Tokens(Data):
    """Sequences of tokens to be predicted: inputs {"input_ids": (n, length)}, labels (n, length), UNLABELLED where a
    token is not to be predicted. A row of a step is a token that has a label.

    tokenizer: what made them; its vocabulary is the number of classes, whatever padding a model's head has.
    """

    def __init__(self, x: Mapping[str, Tensor], y: Tensor, tokenizer: Tokenizer, **settings: Any) -> None:
        tokenizer = as_tokenizer(tokenizer)
        settings.setdefault("classes", tokenizer.vocab_size)
        super().__init__(x, y, **settings)
        if x["input_ids"].shape != y.shape:
            raise DataError(f"input_ids {tuple(x['input_ids'].shape)} and labels {tuple(y.shape)}: give one label each")
        self.tokenizer = tokenizer

    @classmethod
    def packed(cls, texts: Iterable[str], tokenizer: Tokenizer, length: int, **settings: Any) -> Tokens:
        """Texts one after the other, an end of text behind each, cut into blocks of `length` tokens; every token of a
        block but the first is predicted. What does not fill a block is left out."""
        tokenizer = as_tokenizer(tokenizer)
        ids = [i for text in several(texts) for i in (*tokenizer.encode(text), tokenizer.end)]
        blocks = len(ids) // length if length > 1 else 0
        if not blocks:
            raise DataError(f"{len(ids)} tokens do not fill a block of {length}: give more text, or shorter blocks (2)")
        x = torch.tensor(ids[: blocks * length]).view(blocks, length)
        return cls({"input_ids": x}, x, tokenizer, **settings)

    @classmethod
    def pairs(cls, pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, length: int, **settings: Any) -> Tokens:
        """(prompt, completion) texts, an end of text behind each: padded on the right, cut at `length` tokens. Only the
        completion and its end are predicted."""
        tokenizer = as_tokenizer(tokenizer)
        found, cut = [], 0
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise DataError(f"a pair is (prompt, completion), two texts; got {pair!r:.60}")
            prompt, completion = pair
            before, after = completed(tokenizer, prompt, completion)
            if len(before) >= length:
                cut += 1
            found.append((before, after))
        if not found or cut:
            raise DataError(
                f"{cut} of {len(found)} prompts leave no room for a completion in {length} tokens: drop them, or take "
                f"a larger length"
            )
        x = torch.full((len(found), length), tokenizer.end)
        y = torch.full((len(found), length), UNLABELLED)
        for row, (before, after) in enumerate(found):
            ids = torch.tensor([*before, *after][:length])
            x[row, : len(ids)] = ids
            y[row, len(before) : len(ids)] = ids[len(before) :]
        return cls({"input_ids": x}, y, tokenizer, **settings)

    def with_views(self, **views: View) -> Tokens:
        views = {**self.views, **views}
        return Tokens(self.x, given(self.y), self.tokenizer, views=views, masks=self.masks, classes=self._classes)

    @cached_property
    def token_bytes(self) -> Tensor:
        """(vocab_size,) bytes that each token stands for; 0 where the tokenizer does not say."""
        try:
            return speller(self.tokenizer)
        except SettingError:
            return torch.zeros(self.tokenizer.vocab_size, dtype=torch.long)


def python_source(*, held_out: int = 10) -> tuple[list[str], list[str]]:
    """The interpreter's own standard library: the texts of its top-level modules, of which every `held_out`-th is for
    testing. About 7 MB; it differs a little between versions of Python."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    return [t for i, t in enumerate(texts) if i % held_out], texts[::held_out]
