import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from limbeck.align import NONE, pieces
from limbeck.data import UNLABELLED
from limbeck.data.paired import Paired
from limbeck.data.text import BPE, Bytes, Characters, Tokenizer
from limbeck.errors import DataError
from tests.strategies import few

TEXTS = ["the cat sat on the mat\n", "é字 the  cats\n\n", "a", "def cat(the):\n    return 'mat' + the\n"]
CORPUS = BPE.train(TEXTS * 5, 300)


def said(tokenizer: Tokenizer, ids: Tensor) -> bytes:
    spelled = [piece if isinstance(piece, bytes) else b"<end>" for piece in pieces(tokenizer)]
    return b"".join(spelled[i] for i in ids.tolist())


def sides(data: Paired, row: int) -> list[tuple[Tokenizer, Tensor, Tensor, Tensor]]:
    """Tokenizer, ids, labels and chunks of one block."""
    return [
        (data.tokenizer, data.x["input_ids"][row], data.y[row], data.x["chunk"][row]),
        (data.teacher_tokenizer, *(data.x[f"teacher.{name}"][row] for name in ("input_ids", "y", "chunk"))),
    ]


def chunks(tokenizer: Tokenizer, ids: Tensor, chunk: Tensor) -> dict[int, bytes]:
    return {k: said(tokenizer, ids[chunk == k]) for k in chunk.unique().tolist() if k != NONE}


@pytest.mark.parametrize(
    ("student", "teacher"), [(Bytes(), CORPUS), (CORPUS, Characters("".join(TEXTS))), (CORPUS, CORPUS)]
)
@pytest.mark.parametrize("length", [16, 30, 200])
def test_blocks_hold_all_of_the_text_for_both(student: Tokenizer, teacher: Tokenizer, length: int) -> None:
    data = Paired.packed(TEXTS, student, length, teacher=teacher)
    whole: list[bytes] = [b"", b""]
    for row in range(len(data)):
        texts = []
        for i, (tokenizer, ids, y, chunk) in enumerate(sides(data, row)):
            real = y != UNLABELLED
            assert torch.equal(ids[real], y[real])
            assert not real.int().diff().gt(0).any()  # padded on the right
            assert (chunk[~real] == NONE).all()
            assert chunk[0] == NONE
            assert (chunk[real][1:] != NONE).float().mean() > 0.5 or real.sum() < 10
            whole[i] += (text := said(tokenizer, ids[real]))
            texts.append((text, chunks(tokenizer, ids, chunk)))
        assert texts[0] == texts[1]
    assert whole[0] == b"".join(text.encode() + b"<end>" for text in TEXTS)
    assert data.x["input_ids"].shape == (len(data), length)
    assert data.masks["chunks"].sum(1).tolist() == [len(set(chunk.tolist()) - {NONE}) for chunk in data.x["chunk"]]


def test_equal_tokenizers_make_chunks_of_one_token() -> None:
    data = Paired.packed(TEXTS, CORPUS, 16, teacher=CORPUS)
    assert torch.equal(data.x["chunk"], data.x["teacher.chunk"])
    assert torch.equal(data.masks["chunks"], data.x["chunk"] != NONE)


@few
@given(st.integers(8, 40), st.text(st.sampled_from("a é\n"), max_size=12), st.text(st.sampled_from("the cat\né")))
def test_completions_alone_are_predicted(length: int, prompt: str, completion: str) -> None:
    start = max(1, len(Bytes().encode(prompt)))
    if start >= length:
        with pytest.raises(DataError, match="no room"):
            Paired.pairs([(prompt, completion)], Bytes(), length, teacher=CORPUS)
        return
    data = Paired.pairs([(prompt, completion)], Bytes(), length, teacher=CORPUS)
    (_, ids, y, chunk), (_, its_ids, its_y, its_chunk) = sides(data, 0)
    fits = start + len(completion.encode()) < length
    known = said(Bytes(), ids[y != UNLABELLED])
    assert known == (completion.encode() + b"<end>" if fits else completion.encode()[: length - start])
    assert said(CORPUS, its_ids[its_y != UNLABELLED]) == completion.encode() + b"<end>"
    assert chunks(Bytes(), ids, chunk) == chunks(CORPUS, its_ids, its_chunk)
    assert (chunk[y == UNLABELLED] == NONE).all()
    assert (its_chunk[its_y == UNLABELLED] == NONE).all()
    if fits:
        assert b"".join(chunks(Bytes(), ids, chunk).values()) == completion.encode() + b"<end>"


def test_each_model_reads_its_own_tokens() -> None:
    data = Paired.packed(TEXTS, Bytes(), 20, teacher=CORPUS)
    (batch,) = data.batches([torch.tensor([0, 2])])
    assert batch.of("student") is batch
    assert list(batch.view()) == ["input_ids"]
    theirs = batch.of("teacher")
    assert torch.equal(theirs.view()["input_ids"], data.x["teacher.input_ids"][[0, 2]])
    assert theirs.vocabulary == CORPUS.vocab_size
    assert theirs.rows == (data.x["teacher.y"][[0, 2], 1:] != UNLABELLED).sum()
    assert batch.rows == (data.y[[0, 2], 1:] != UNLABELLED).sum()
    moved = batch.to(lambda x: x)
    assert moved.of("teacher").rows == theirs.rows


def test_what_cannot_be_paired_says_so() -> None:
    with pytest.raises(DataError, match="do not spell this text alike: 'xyz'"):
        Paired.packed(["xyz"], Bytes(), 8, teacher=Characters("abc"))
    with pytest.raises(DataError, match="do not agree within 3 tokens, and a block has 2"):
        Paired.packed(["字"], Bytes(), 2, teacher=Characters("字"))
    with pytest.raises(DataError, match="no text"):
        Paired.packed([], Bytes(), 2, teacher=CORPUS)
