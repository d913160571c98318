"""transformers' tokenizers: what each token stands for, whatever way it is written."""

import json
from typing import Any

import pytest
import torch

from limbeck import UNLABELLED
from limbeck.align import NONE, pieces
from limbeck.data.paired import Paired
from limbeck.data.text import BPE, Bytes, HuggingFace, Tokens
from limbeck.errors import DataError, SettingError

transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

TEXT = "def f(x):\n    return x  # naïve café 日本\n\n\tend  "
TEXTS = ["def f(x):\n    return x\n" * 3, "for x in range(9):\n    print(f(x), end='')\n"]


def wrapped(tokenizer: Any, **special: str) -> HuggingFace:
    special = {"eos_token": "</s>", **special}
    return HuggingFace(transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def sentencepiece(form: str) -> HuggingFace:
    """As Llama 2 writes words, before ("normalizer") and after ("pre_tokenizer") its rewriting, and as Gemma does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if form == "pre_tokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    else:
        prefix = [normalizers.Prepend("▁")] if form == "normalizer" else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([line for text in TEXTS for line in text.split("\n")], trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    return wrapped(Tokenizer.from_str(json.dumps(state)), unk_token="<unk>")


def byte_level(*, prefix: bool = False) -> HuggingFace:
    tokenizer = BPE.train(TEXTS, 300).tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made = wrapped(tokenizer, eos_token=BPE.END)
    made.tokenizer.add_tokens(["<tool call>"])
    made.tokenizer.add_special_tokens({"additional_special_tokens": ["<|system|>"]})
    return made


def word_pieces() -> HuggingFace:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "</s>"]))
    return wrapped(tokenizer, unk_token="[UNK]")


KINDS = {
    "Gemma": lambda: sentencepiece("replaced"),
    "Llama": lambda: sentencepiece("normalizer"),
    "Llama, rewritten": lambda: sentencepiece("pre_tokenizer"),
    "byte-level": byte_level,
    "byte-level with a leading space": lambda: byte_level(prefix=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_spell_the_text(kind: str) -> None:
    """But for the space that some put before it."""
    tokenizer = KINDS[kind]()
    spelled = b"".join(map(tokenizer.spell, tokenizer.encode(TEXT)))
    assert spelled.removeprefix(b" ") == TEXT.encode()
    assert len(pieces(tokenizer)) == tokenizer.vocab_size


def test_added_tokens_are_text_and_special_ones_are_not() -> None:
    tokenizer = byte_level()
    ids = tokenizer.tokenizer.convert_tokens_to_ids(["<tool call>", "<|system|>", BPE.END])
    assert [tokenizer.spell(i) for i in ids] == [b"<tool call>", b"", b""]


def test_words_without_their_spaces_are_refused() -> None:
    tokenizer = word_pieces()
    assert not Tokens.packed(TEXTS, tokenizer, 8).token_bytes.any()  # can be learnt, but has no bits per byte
    with pytest.raises(SettingError, match="does not say where its spaces are"):
        Paired.packed(TEXTS, Bytes(), 8, teacher=tokenizer)


def test_tokenizers_are_taken_as_they_are() -> None:
    theirs = byte_level()
    for make, given in ((Tokens.packed, TEXTS), (Tokens.pairs, [("def", " f(x)")])):
        wrapped, bare = make(given, theirs, 8), make(given, theirs.tokenizer, 8)
        assert torch.equal(wrapped.x["input_ids"], bare.x["input_ids"])
        assert torch.equal(wrapped.token_bytes, bare.token_bytes)
    with pytest.raises(SettingError, match=r"BPE\(tokenizer\) takes one of the tokenizers library"):
        Tokens.packed(TEXTS, BPE.train(TEXTS, 300).tokenizer, 8)


def test_what_would_be_read_as_other_texts_is_told() -> None:
    with pytest.raises(DataError, match=r"write \[text\]"):
        Tokens.packed(TEXT, Bytes(), 8)
    with pytest.raises(DataError, match=r"a pair is \(prompt, completion\)"):
        Tokens.pairs([{"prompt": "a", "completion": "b"}], Bytes(), 8)  # type: ignore[list-item]


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_goes_on_behind_its_prompt(kind: str) -> None:
    """No space comes between the two that the text has not."""
    tokenizer = KINDS[kind]()
    for prompt, completion in (
        ("def f(", "x):\n    return x"),
        ("for x", " in range(9)"),
        ("x", "\n\tend"),
        ("p", "rint"),
    ):
        data = Tokens.pairs([(prompt, completion)], tokenizer, 64)
        after = data.y[0][data.y[0] != UNLABELLED].tolist()  # type: ignore[index]
        assert after.pop() == tokenizer.end
        assert b"".join(map(tokenizer.spell, after)) == completion.encode()
        assert tokenizer.decode(data.x["input_ids"][0, :64].tolist()).strip() == (prompt + completion).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_of_a_pair_of_tokenizers_cover_the_same_bytes(kind: str) -> None:
    own, other = Bytes(), KINDS[kind]()
    pairs = [("def f(", "x):\n    return x"), ("for x", " in range(9)")]
    for data in (Paired.packed(TEXTS, own, 32, teacher=other), Paired.pairs(pairs, own, 32, teacher=other)):
        for i in range(len(data)):
            student, teacher = data.x["chunk"][i], data.x["teacher.chunk"][i]
            assert student.max() == teacher.max() > 0
            for chunk in range(int(student.max()) + 1):
                a = b"".join(own.spell(int(t)) for t in data.x["input_ids"][i][student == chunk])
                b = b"".join(other.spell(int(t)) for t in data.x["teacher.input_ids"][i][teacher == chunk])
                assert a.lstrip(b" ") == b.lstrip(b" ")
    assert (data.x["teacher.chunk"] == NONE).any()
    assert torch.equal((data.x["chunk"] != NONE), data.y != UNLABELLED)
