import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from limbeck.align import NONE, Piece, align, align_batch, biases, edit_distances, nearest_pieces, pairs, pieces
from limbeck.data.text import BPE, Bytes, Characters
from tests.conformance import Letters
from tests.strategies import few

texts = st.text(st.sampled_from("ab é字👩🏽\n") | st.characters(codec="utf-8"), min_size=1, max_size=30)


@st.composite
def cut(draw: st.DrawFn, text: bytes) -> list[bytes]:
    """Any tokenization of a text, also in the middle of a character."""
    inner = draw(st.sets(st.integers(1, len(text) - 1))) if len(text) > 1 else set()
    ends = [0, *sorted(inner), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def strings(side: list[Piece], chunk: torch.Tensor) -> list[str | bytes]:
    """What each chunk says."""
    numbers = range(int(chunk.max()) + 1)
    members = [[piece for piece, k in zip(side, chunk.tolist(), strict=True) if k == number] for number in numbers]
    return [own[0] if isinstance(own[0], str) else b"".join(own) for own in members]


@few
@given(texts.map(str.encode).flatmap(lambda text: st.tuples(cut(text), cut(text))))
def test_chunks_are_the_shortest_runs_of_equal_bytes(sides: tuple[list[bytes], list[bytes]]) -> None:
    chunks = align(*sides)
    said = [strings(side, chunk) for side, chunk in zip(sides, chunks, strict=True)]
    assert said[0] == said[1]
    assert b"".join(said[0]) == b"".join(sides[0])  # all of the text
    for chunk in chunks:
        assert set(chunk.diff().tolist()) <= {0, 1}
    ends = [set(itertools.accumulate(map(len, side))) for side in sides]
    assert int(chunks[0].max()) + 1 == len(ends[0] & ends[1])  # none could be cut into two
    assert [chunk.tolist() for chunk in align(sides[1], sides[0])] == [chunk.tolist() for chunk in reversed(chunks)]


@few
@given(texts.map(str.encode).flatmap(cut))
def test_a_tokenization_with_itself(side: list[bytes]) -> None:
    student, teacher = align(side, side)
    assert student.tolist() == teacher.tolist() == list(range(len(side)))


def test_characters_cut_into_bytes() -> None:
    student, teacher = align([b"\xc3", b"\xa9a"], ["é".encode(), b"a"])
    assert (student.tolist(), teacher.tolist()) == ([0, 0], [0, 0])
    student, teacher = align([b"\xc3", b"\xa9", b"a"], ["é".encode(), b"a"])
    assert (student.tolist(), teacher.tolist()) == ([0, 0, 1], [0, 1])


def test_special_tokens_match_by_role_and_place() -> None:
    student = ["bos", b"ab", "eos", b"c", "eos", None, None]
    teacher = ["bos", b"a", b"b", "eos", "think", b"c", "eos", None]
    chunks = align(student, teacher)
    assert [chunk.tolist() for chunk in chunks] == [[0, 1, 2, 3, 4, -1, -1], [0, 1, 1, 2, -1, 3, 4, -1]]


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_special_token_without_counterpart_moves_nothing(where: int) -> None:
    plain = [b"ab", b"cd"]
    more: list[Piece] = [*plain[:where], "bos", *plain[where:]]
    student, teacher = align(more, [b"abc", b"d"])
    assert teacher.tolist() == [0, 0]
    assert [k for piece, k in zip(more, student.tolist(), strict=True) if piece != "bos"] == [0, 0]
    assert student[where] == NONE


def test_special_tokens_elsewhere_or_in_other_number_do_not_match() -> None:
    student, teacher = align(["eos", b"a"], [b"a", "eos"])
    assert (student.tolist(), teacher.tolist()) == ([-1, 0], [0, -1])
    student, teacher = align(["eos", "eos", b"a"], ["eos", b"a"])
    assert (student.tolist(), teacher.tolist()) == ([0, -1, 1], [0, 1])


def test_text_that_looks_like_a_special_token_is_text() -> None:
    student, teacher = align([b"eos", b"a"], ["eos", b"eos", b"a"])
    assert (student.tolist(), teacher.tolist()) == ([0, 1], [-1, 0, 1])


def test_spaces_at_the_start_are_made_equal_and_others_count() -> None:
    student, teacher = align(["bos", b" the", b" cat"], ["bos", b"the", b" c", b"at"])
    assert (student.tolist(), teacher.tolist()) == ([0, 1, 2], [0, 1, 2, 2])
    student, teacher = align([b" ", b" ", b"a"], [b"a"])
    assert (student.tolist(), teacher.tolist()) == ([0, 0, 0], [0])
    student, teacher = align([b"a", b"  b", b"c"], [b"a", b" ", b" b", b"c"])
    assert (student.tolist(), teacher.tolist()) == ([0, 1, 2], [0, 1, 1, 2])


def test_what_one_side_has_not_and_what_differs_is_left_out() -> None:
    student, teacher = align([b"ab", b"c"], [b"ab", b"c", b"de"])
    assert (student.tolist(), teacher.tolist()) == ([0, 1], [0, 1, -1])
    student, teacher = align([b"ab", b"cd", b"e"], [b"ab", b"c", b"x", b"e"])
    assert (student.tolist(), teacher.tolist()) == ([0, -1, 1], [0, -1, -1, 1])
    for nothing in ([], [None, "bos"], [b"abc"]):
        student, teacher = align(nothing, [b"ab"])
        assert (student.tolist(), teacher.tolist()) == ([-1] * len(nothing), [-1])


def test_batches_are_filled_up() -> None:
    student, teacher = align_batch([[b"a", b"b"], [b"a"]], [[b"ab"], [b"a"]])
    assert student.tolist() == [[0, 0], [0, -1]]
    assert teacher.tolist() == [[0], [0]]


def test_pairs_are_the_chunks_of_one_token_each() -> None:
    batch = align_batch([[b"a", b"b", b"c", "eos"], [b"ab", None]], [["bos", b"a", b"bc", "eos"], [b"a", b"b"]])
    assert pairs(*batch).tolist() == [[1, -1, -1, 3], [-1, -1, -1, -1]]


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_pieces_of_our_tokenizers_join_to_the_text() -> None:
    text = "é the cat 字👩🏽\n\n  sat"
    for tokenizer in (Bytes(), Characters(text), BPE.train([text] * 3, 300)):
        said = pieces(tokenizer)
        assert len(said) == tokenizer.vocab_size
        assert said[tokenizer.end] == "end"
        assert b"".join(said[i] for i in tokenizer.encode(text)) == text.encode()  # type: ignore[misc]


def slow_distance(a: bytes, b: bytes) -> int:
    if not a or not b:
        return len(a) + len(b)
    rest = slow_distance(a[1:], b[1:])
    if a[0] == b[0]:
        return rest
    return 1 + min(rest, slow_distance(a[1:], b), slow_distance(a, b[1:]))


words = st.lists(st.sampled_from(b"abc"), max_size=5).map(bytes)


@few
@given(words, st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(st.sampled_from(b"abc"), min_size=n, max_size=n))))
def test_edit_distance_is_that_of_its_definition(word: bytes, others: list[list[int]]) -> None:
    if others:
        found = edit_distances(word, np.array(others, dtype=np.uint8))
        assert found.tolist() == [slow_distance(word, bytes(other)) for other in others]


@few
@given(st.lists(words), st.lists(words.filter(len), min_size=1))
def test_nearest_pieces_are_nearest(student: list[bytes], teacher: list[bytes]) -> None:
    for word, i in zip(student, nearest_pieces(student, teacher).tolist(), strict=True):
        distances = [slow_distance(word, other) for other in teacher]
        assert distances[i] == min(distances)
        assert word not in teacher or i == teacher.index(word)


def test_nearest_pieces_by_hand() -> None:
    teacher: list[Piece] = ["bos", b"the", b"then", b" cat", b"cut", None]
    student: list[Piece] = ["bos", "eos", None, b"then", b"thee", b"cat"]
    assert nearest_pieces(student, teacher).tolist() == [0, -1, -1, 2, 2, 4]


# ---- what a cut gives away ------------------------------------------------------------------------------------------


def test_a_cut_is_biased_by_what_would_have_gone_on() -> None:
    letters = Letters(*"abc ")
    words = Letters(*"abc ", "ab", "abc", "bc")
    shares = [[0.2] * 4 + [0.2], [0.1, 0.1, 0.1, 0.1, 0.05, 0.03, 0.4, 0.12]]
    ids = {token: i for i, token in enumerate(words.tokens)}
    a, b, c, space, end = range(5)

    def bias(own: int, its: str) -> float:
        (found,) = biases([(own, ids[its])], (letters, words), shares)
        return found

    assert bias(c, "c") == 0  # nothing goes on
    assert bias(a, "a") == pytest.approx(0.05 + 0.03)  # had it been "ab" or "abc", the words would be those
    assert bias(b, "ab") == pytest.approx(0.03)  # and "bc" does not come: "abc" is one word
    assert bias(b, "b") == pytest.approx(0.4)
    assert bias(c, "abc") == 0
    assert bias(space, " ") == 1
    assert biases([(end, words.end)], (letters, words), shares) == [0]
    assert biases([(ids["ab"], b)], (words, letters), shares[::-1]) == [pytest.approx(0.03)]  # of either side
    same = [(i, i) for i in range(7) if i != space]
    assert biases(same, (words, words), [shares[1]] * 2) == [0] * 6
