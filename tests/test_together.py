"""Several students, one pass of the teacher: each ends as it would have ended alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck import Run, ema_pseudo_label, kd, sinkd
from limbeck.data import Data
from limbeck.data.views import strong
from limbeck.errors import SettingError
from limbeck.together import together
from tests.conformance import Small, images, seeded


class Counting(Small):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training or len(x) > 2  # not the dry step's
        return super().forward(x)


def students() -> dict[str, nn.Module]:
    return {"a": seeded(1, Small, 4, drop=0.3), "b": seeded(2, Small, 8, drop=0.1), "c": seeded(3, Small, 4)}


METHODS = [kd(tau=2.0), sinkd(kd=0.5, ot=0.5), kd(tau=4.0, alpha=0.5)]


def fields() -> dict[str, Any]:
    data = Data(*images(48), views={"x": strong(flip=False, pad=1)})
    return {"teacher": seeded(9, Counting, 6), "data": data, "epochs": 3, "batch_size": 16, "accelerator": "cpu"}


def weights(run: Run) -> dict[str, Tensor]:
    return run.bundle.state_dict()


def alone() -> dict[str, Run]:
    runs = {}
    for (name, student), method in zip(students().items(), METHODS, strict=True):
        runs[name] = Run(student=student, method=method, **fields())
        runs[name].fit()
    return runs


def same(one: dict[str, Run], other: dict[str, Run]) -> bool:
    return all(
        torch.equal(value, weights(other[name])[key]) for name in one for key, value in weights(one[name]).items()
    )


def test_each_ends_as_alone_to_the_bit() -> None:
    assert same(alone(), together(students(), method=METHODS, **fields()))


def test_the_teacher_runs_once_per_batch() -> None:
    shared = fields()
    together(students(), method=METHODS, **shared)
    assert shared["teacher"].calls == 3 * 3


def test_goes_on_after_being_stopped_between_two_students(tmp_path: Path) -> None:
    """After a kill one student's checkpoint is an epoch older than the others'."""

    class Killed(BaseException):
        pass

    class Killer:
        def step(self, run: Run) -> None: ...

        def epoch(self, run: Run, row: dict[str, Any]) -> None:
            if row["epoch"] == 2 and run.folder == tmp_path / "b":
                raise Killed

    with pytest.raises(Killed):
        together(students(), method=METHODS, folder=tmp_path, watcher=Killer(), **fields())
    epochs = {name: torch.load(tmp_path / name / "last.ckpt", weights_only=True)["progress"][0] for name in "abc"}
    assert epochs == {"a": 2, "b": 2, "c": 1}
    assert same(alone(), together(students(), method=METHODS, folder=tmp_path, resume=True, **fields()))


def test_as_many_methods_as_students() -> None:
    with pytest.raises(SettingError, match="3 students and 2 methods"):
        together(students(), method=METHODS[:2], **fields())


def test_masks_of_one_method_do_not_reach_the_next() -> None:
    """`prepare` may add masks to its batch."""
    x, y = images(48)
    y[::2] = -1
    given = {"data": Data(x, y, views={"strong": strong(flip=False, pad=1)}, classes=10), "unlabelled": 1.0}
    method = ema_pseudo_label(threshold=0.1)
    run = Run(student=seeded(3, Small, 4), method=method, **{**fields(), **given, "teacher": None})
    run.fit()
    both = together([seeded(1, Small, 4), seeded(3, Small, 4)], method=method, **{**fields(), **given, "teacher": None})
    assert same({"1": run}, {"1": both["1"]})
