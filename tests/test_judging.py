"""What is said of student and teacher: each figure on a case that can be counted by hand."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.data import Data
from limbeck.judging import differences, disagreements, per_class, reliability, shown

NAMES = ("a", "b", "c")


def logits(choices: list[int], sure: float = 3.0) -> Tensor:
    return sure * torch.nn.functional.one_hot(torch.tensor(choices), 3).float()


def images(n: int, *shape: int) -> Tensor:
    return torch.arange(n)[:, None, None, None].expand(n, *(shape or (1, 2, 2))).to(torch.uint8)


def level(image: str) -> int:
    """The first pixel of a PNG data URI, 0..255."""
    return round(255 * pixels(image).flatten()[0])


def pixels(image: str) -> np.ndarray:
    return imread(io.BytesIO(base64.b64decode(image.removeprefix("data:image/png;base64,"))))


def test_accuracy_per_class() -> None:
    y, choice = torch.tensor([0, 0, 0, 1, -1]), torch.tensor([0, 0, 1, 0, 2])
    assert per_class({"student": choice}, y, NAMES) == {
        "names": ["a", "b", "c"],
        "examples": [3, 1, 0],
        "accuracy": {"student": [2 / 3, 0.0, None]},
    }


def test_disagreements_are_counted_with_who_is_right() -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    teacher, student = logits([0, 0, 1, 1, 0, 1]), logits([1, 1, 0, 1, 1, 2])
    assert disagreements(student, teacher, y) == {
        "examples": 6,
        "differ": 5,
        "teacher_right": 2,
        "student_right": 2,
        "pairs": [[0, 1, 3, 2, 0], [1, 0, 1, 0, 1], [1, 2, 1, 0, 1]],
    }
    assert disagreements(student, teacher, y, most=1)["pairs"] == [[0, 1, 3, 2, 0]]
    assert disagreements(teacher, teacher, y)["differ"] == 0


def test_examples_stand_in_their_groups_in_order() -> None:
    y = torch.tensor([0, 1, 2, 0, 1])
    student = torch.cat([logits([0]), logits([1], 5.0), logits([0]), logits([0]), logits([2], 9.0)])
    alone, teacher = logits([1, 0, 2, 0, 0]), logits([0, 1, 2, 0, 1])
    found = differences(
        Data(images(5), y), NAMES, {"teacher": teacher, "student alone": alone, "student": student}, "student"
    )
    assert {group: [level(each["image"]) for each in members] for group, members in found.items()} == {
        "gained": [1, 0],  # the surer one first
        "lost": [2],
        "disagreeing": [4, 2, 1],  # of 0 and 3 the logits are the teacher's
    }
    said = {"label": "c", "teacher": "c", "alone": "c", "distilled": "a"}
    assert said.items() <= found["lost"][0].items()
    p, q = (z[4].double().softmax(0) for z in (teacher, student))
    assert found["disagreeing"][0]["kl"] == pytest.approx(float((p * (p / q).log()).sum()))


def test_groups_need_their_models() -> None:
    y, z = torch.tensor([0, 1]), logits([0, 0])
    data = Data(images(2), y)
    assert differences(data, NAMES, {"student": z}, "student") == {}
    assert list(differences(data, NAMES, {"student alone": z, "student": z}, "student")) == ["gained", "lost"]
    assert differences(data, NAMES, {"teacher": z, "student": z}, "student") == {"disagreeing": []}


def test_large_images_are_made_smaller() -> None:
    photo = images(201, 3, 400, 200)
    small = pixels(shown(Data(photo), 200)["image"])
    assert small.shape[:2] == (96, 48)
    assert np.rint(255 * small[..., :3]).tolist() == np.full((96, 48, 3), 200).tolist()


class Texts(Dataset):
    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i]


def test_texts_are_shown_as_they_are() -> None:
    data = Data(Texts({"text": "one", "label": 0}, ("two", 1), ({"text": "three"}, 0), torch.zeros(3)))
    assert [shown(data, i) for i in range(4)] == [{"text": "one"}, {"text": "two"}, {"text": "three"}, {}]
    assert shown(Data({"input_ids": torch.zeros(2, 5)}), 0) == {}


def test_reliability_by_hand() -> None:
    z = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]).log()
    low, high = reliability(z, torch.tensor([0, 1, 1]), bins=10)
    assert low == pytest.approx([0.6, 1.0, 1 / 3])
    assert high == pytest.approx([0.9, 0.5, 2 / 3])
