"""A record is whole or tells what it lacks, however its writing ended."""

import errno
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck import Data
from limbeck.data.views import Crop
from limbeck.errors import DataError, RecordError, SettingError, SignalError
from limbeck.records import Cached, Record, capture as capturing, format as files
from tests.records.small import contents, data, record, teacher

KILLS = 15
SETTINGS: dict[str, Any] = {
    "signals": {".logits": "sampled=3/t=0.5", "layer3": "bf16"},
    "views": {"x": 2},
    "block": 20,
}


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit status of a process of its own that does this."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # the parent sees that it failed
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at_line(number: int, work: Callable[[], object]) -> None:
    """Does the work and dies by SIGKILL before the n-th line of format.py."""
    left = number

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of format.py it runs."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != files.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_kills_leave_what_was_written_and_the_end_is_the_same(tmp_path: Path) -> None:
    dice, source = random.Random(0), data(Crop(1))
    lines = lines_of(lambda: record(tmp_path / "whole", source, **SETTINGS))
    folder, kills = tmp_path / "killed", 0
    while kills < KILLS:
        at = dice.randrange(lines * 2 // 3)
        status = in_a_fork(lambda at=at: killed_at_line(at, lambda: record(folder, source, **SETTINGS)))
        assert status in (0, signal.SIGKILL)
        kills += status == signal.SIGKILL
        if (folder / "manifest.json").exists():
            left = Record.open(folder)
            assert all(left.fault(shard) is None for shard in left.shards)
        if status == 0:
            assert contents(folder) == contents(tmp_path / "whole")
            [path.unlink() for path in folder.iterdir()]
    record(folder, source, **SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")


def test_files_cut_at_any_byte_are_written_again(tmp_path: Path) -> None:
    record(tmp_path / "whole", **SETTINGS)
    folder = tmp_path / "cut"
    with pytest.raises(InterruptedError):
        record(folder, **SETTINGS, watch=stop_after(45))
    listed = next(folder.glob("part-*.jsonl"))
    whole = listed.read_bytes()
    for length in range(len(whole)):
        listed.write_bytes(whole[:length])
        assert len(Record.open(folder).shards) == whole[:length].count(b"}")
    (folder / "x.0000.00003.shard.partial").write_bytes(b"half")
    (folder / "manifest.json.partial").write_bytes(b"half")
    listed.write_bytes(whole[:-9])
    record(folder, **SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")


def stop_after(rows: int) -> Callable[[int, int], None]:
    def watch(done: int, total: int) -> None:
        if done > rows:
            raise InterruptedError

    return watch


def test_parts_make_one_record(tmp_path: Path) -> None:
    source = data(Crop(1))
    record(tmp_path / "whole", source, **SETTINGS)
    folder = tmp_path / "parts"
    for i in (2, 0, 1):
        left = record(folder, source, **SETTINGS, part=(i, 3)).missing()
        assert bool(left) == (i != 1)
        if left:
            with pytest.raises(RecordError, match="not captured yet"):
                Record.open(folder).verify()
    assert contents(folder) == contents(tmp_path / "whole")


def test_parts_write_at_once(tmp_path: Path) -> None:
    source = data(Crop(1))
    record(tmp_path / "whole", source, **SETTINGS)
    folder = tmp_path / "parts"
    found: list[int] = []
    jobs = [
        threading.Thread(
            target=lambda i=i: found.append(
                in_a_fork(lambda i=i: record(folder, source, **SETTINGS, part=(i, 3)))  # type: ignore[misc]
            )
        )
        for i in range(3)
    ]
    [job.start() for job in jobs]
    [job.join() for job in jobs]
    assert found == [0, 0, 0]
    assert contents(folder) == contents(tmp_path / "whole")


def test_epochs_and_views_are_added(tmp_path: Path) -> None:
    source = data(Crop(1)).with_views(strong=Crop(2))
    record(tmp_path / "grown", source, views={"x": 1})
    written = (tmp_path / "grown/x.0000.00000.shard").stat().st_mtime_ns
    record(tmp_path / "grown", source, views={"x": 3, "strong": 1})
    assert (tmp_path / "grown/x.0000.00000.shard").stat().st_mtime_ns == written
    record(tmp_path / "once", source, views={"x": 3, "strong": 1})
    assert contents(tmp_path / "grown") == contents(tmp_path / "once")


def test_a_view_that_is_not_random_is_written_once(tmp_path: Path) -> None:
    assert len(record(tmp_path, views={"x": 30}).shards) == 1


def test_mixing_is_refused(tmp_path: Path) -> None:
    source = data(Crop(1))
    record(tmp_path, source)
    before = contents(tmp_path)
    more = {"views": {"x": 4}}
    for words, attempt in {
        "this Small has other weights": lambda: record(tmp_path, source, teacher(1), **more),
        "recorded was a Small, this is a Sequential": lambda: record(
            tmp_path, source, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), **more
        ),
        "Crop": lambda: record(tmp_path, data(Crop(2)), **more),
        "the data": lambda: record(tmp_path, Data(source.x.flip(0), views=source.views), **more),
        "seed=1, this is seed=2": lambda: record(tmp_path, source, seed=2, **more),
        "signals": lambda: record(tmp_path, source, signals={".logits": "fp16"}, **more),
    }.items():
        with pytest.raises(RecordError, match=words):
            attempt()
        assert contents(tmp_path) == before, words


def test_full_disk_leaves_a_shorter_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data(Crop(1))
    whole = record(tmp_path / "whole", source, block=16)
    written = files.write
    room = 7  # the manifest and six shards

    def full(path: Path, content: Any) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            path.with_name(path.name + ".partial").write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(path, content)

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(
        RecordError, match=r"disk is full: .* holds 6 of 12 shards.*Free 3.84 kB and go on with limbeck record"
    ):
        record(tmp_path / "full", source, block=16)
    monkeypatch.undo()
    cached = Cached(tmp_path / "full")
    first = next(source.batches([torch.arange(64)], seed=1, epoch=0))
    assert cached.lookup(first, "x").logits.shape == (64, 10)
    with pytest.raises(RecordError, match=r"x\.0001\.00002\.shard is not captured yet.*limbeck record"):
        cached.lookup(next(source.batches([torch.arange(64)], seed=1, epoch=1)), "x")
    record(tmp_path / "full", source, block=16)
    assert contents(tmp_path / "full") == contents(whole.path)


def test_need_is_said_before_and_progress_after(tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    made = record(
        tmp_path, data(Crop(1)), views={"x": 2}, say=said.append, watch=lambda done, total: seen.append((done, total))
    )
    assert "2 of 2 shards to write" in said[0]
    assert "5.12 kB" in said[0]
    assert sum(each["bytes"] for each in made.shards.values()) == 2 * 64 * made.row_bytes == 5120
    assert seen[0] == (16, 128)
    assert seen[-1] == (128, 128)
    capturing.capture(tmp_path, teacher(), data(Crop(1)), signals={"logits": "fp32"}, views={"x": 2}, seed=1,
                      say=said.append)  # fmt: skip
    assert "0 of 2 shards" in said[1]


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"signals": {"layr2": "fp32"}}, SignalError, "'layer2'"),
        ({"signals": {"logits": "topk=11"}}, SettingError, "k=11 classes of 10"),
        ({"signals": {"logits": "top=3"}}, SettingError, "'topk'"),
        ({"signals": {"layer2": "topk=2"}}, SettingError, "for logits"),
        ({"views": {"strng": 1}}, SignalError, "there is: 'x'"),
        ({"views": {"x": 0}}, SettingError, "at least 1"),
        ({"part": (2, 2)}, SettingError, "0 <= i < n"),
        ({"part": (0, 2), "ray": 2}, SettingError, "ray=2, part"),
        ({"ray": 0}, SettingError, "number of parts"),
        ({"signals": {}}, SettingError, "no signal"),
    ],
)
def test_mistakes_write_nothing(settings: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=said):
        record(tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_missing_ray_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'limbeck\[ray\]'"):
        record(tmp_path / "r", ray=2)
    assert not (tmp_path / "r").exists()


def test_nan_is_refused(tmp_path: Path) -> None:
    model = teacher()
    torch.nn.init.constant_(model.fc.bias, torch.nan)  # type: ignore[arg-type,union-attr]
    with pytest.raises(DataError, match="nan"):
        record(tmp_path, model=model)


# ---- damage ---------------------------------------------------------------------------------------------------------


def damaged(folder: Path, damage: Callable[[Path], object], said: str) -> None:
    """It is told, with the shard's name and the command, whole or at the first touch; and recording again mends it."""
    source = data(Crop(1))
    record(folder, source, block=16, command="limbeck record again")
    before = contents(folder)
    damage(folder / "x.0001.00002.shard")
    with pytest.raises(RecordError, match=rf"x\.0001\.00002\.shard {said}.*limbeck record again"):
        Record.open(folder).verify()
    cached = Cached(folder)
    cached.lookup(next(source.batches([torch.arange(32)], seed=1, epoch=1)), "x")
    with pytest.raises(RecordError, match=rf"x\.0001\.00002\.shard {said}"):
        cached.lookup(next(source.batches([torch.arange(64)], seed=1, epoch=1)), "x")
    record(folder, source, block=16)
    assert contents(folder) == before


def test_flipped_bit(tmp_path: Path) -> None:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[101] ^= 4
        path.write_bytes(content)

    damaged(tmp_path, flip, "has other bytes than were written")


def test_truncated_shard(tmp_path: Path) -> None:
    damaged(tmp_path, lambda path: os.truncate(path, 600), "has 600 bytes and should have 640")


def test_missing_shard(tmp_path: Path) -> None:
    damaged(tmp_path, lambda path: path.unlink(), "is missing")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"fp32"', '"fp16"', "not as it was written"),
        ('"seed": 1', '"seed": 2', "not as it was written"),
        ('"crc32": ', '"crc32": 1', "not as it was written"),
        ('"format": 1', '"format": 7', "format 7"),
        ('"shards"', '"shrds"', "damaged"),
        ("{", "", "damaged"),
        ("}", "\x00", "damaged"),
    ],
)
def test_wrong_manifest(old: str, new: str, said: str, tmp_path: Path) -> None:
    record(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RecordError, match=said):
        Cached(tmp_path)


def test_damaged_head(tmp_path: Path) -> None:
    record(tmp_path, signals={"logits": "head"})
    path = tmp_path / "head.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + b"?"):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=r"head\.safetensors"):
            Cached(tmp_path)
        record(tmp_path, signals={"logits": "head"})
        Cached(tmp_path)
