"""Texts as token ids, and WordNet's definitions read from its own files."""

from pathlib import Path

import pytest
import torch

from limbeck.data import load, texts
from limbeck.data.glosses import glosses
from limbeck.errors import DataError


def test_token_ids_by_hand() -> None:
    train = [("A cat, a CAT and a dog", 0), ("the dog", 1), ("", 1)]
    first, second = texts(train, [("A bird; a dog's cat! A cat", 0)], ("p", "q"), words=3, length=7)
    assert first.words == second.words == ("", "?", "a", "cat", "dog")
    assert first.x.tolist() == [[2, 3, 2, 3, 1, 2, 4], [1, 4, 0, 0, 0, 0, 0], [0] * 7]
    assert second.x.tolist() == [[2, 1, 2, 4, 1, 3, 2]]
    assert (first.y.tolist(), second.y.tolist()) == ([0, 1, 1], [0])
    assert first.built_with == {"classes": 2, "vocabulary": 5}


LICENCE = "  1 This software and database is being provided to you | the licensee  \n"


def wordnet(folder: Path, lines: dict[str, list[str]]) -> None:
    (folder / "wordnet").mkdir()
    for kind in ("adj", "adv", "noun", "verb"):
        (folder / "wordnet" / f"data.{kind}").write_text(LICENCE + "".join(lines.get(kind, [])))


def synset(number: int, gloss: str) -> str:
    return f"00001740 {number:02} n 01 entity 0 001 ~ 00001930 n 0000 | {gloss}  \n"


def test_glosses_in_wordnets_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    nouns = [synset(5 + i % 2, f'animal number {i // 2}; "as in | here"') for i in range(200)]
    wordnet(tmp_path, {"noun": nouns, "verb": [synset(43, "to rain")], "adj": [synset(44, "rained on")]})
    train, test = load("glosses")
    assert len(train.x) + len(test.x) == 202
    assert 10 <= len(test.x) <= 40
    assert len(train.classes) == 45
    assert {train.classes[k] for k in train.y.tolist()} >= {"noun.animal", "noun.artifact"}
    assert {"as", "here"} <= set(train.words)
    assert not {tuple(row) for row in train.x.tolist()} & {tuple(row) for row in test.x.tolist() if 1 not in row}
    assert test.y.bincount()[5] == test.y.bincount()[6], "both synsets of a definition are in one part"
    again, _ = load("glosses")
    assert torch.equal(again.x, train.x)


@pytest.mark.parametrize("line", ["no synset at all\n", synset(45, "of no file"), "00001740 0x n 01 | gloss\n"])
def test_other_files_are_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    wordnet(tmp_path, {"adv": [line]})
    with pytest.raises(DataError, match=r"data\.adv"):
        glosses()


def test_a_missing_wordnet_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.setattr("limbeck.data.glosses._DEBIAN", tmp_path / "debian")
    with pytest.raises(FileNotFoundError, match=r"wordnet-base.*LIMBECK_DATA"):
        glosses()


def test_the_real_ones() -> None:
    try:
        train, test = glosses()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(train.x) + len(test.x) == 117_659, "synsets of WordNet 3.0, by wnstats(7WN)"
    assert set(train.y.tolist()) == set(test.y.tolist()) == set(range(45))
