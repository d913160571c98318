"""A record as a teacher: what it said is looked up by example, view and epoch."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.data import Batch
from limbeck.errors import DataError, RecordError, SettingError, ShapeError, SignalError, nearest
from limbeck.records import identity
from limbeck.records.format import Record, Signal, file_of
from limbeck.signals import Output

if TYPE_CHECKING:
    from limbeck.run import Run


class Cached:
    """The teacher of a record. It is asked as any other, `Run(teacher=Cached("record"))`, and checked against the run:
    the same data, views and seed, and as many epochs as the run has, unless the view is not random.

    teacher: the model, if it is at hand, to be sure that the record is of it. verify: check a shard's checksum when it
    is first read. resident: bytes of the record that may be mapped into memory; a larger one is read row by row.

    Raises RecordError for a record that is damaged, too short or of something else; SignalError for a view or a signal
    that is not in it.
    """

    def __init__(self, path: Path | str, *, teacher: Any = None, verify: bool = True, resident: int = 1 << 27) -> None:
        self.record = Record.open(path)
        self.shards = Shards(self.record, verify, resident)
        self.head = self.record.head()
        self.wanted = [".logits"] if ".logits" in self.record.signals else []
        self.asked: set[str] = set()
        if teacher is not None:
            self.refuse(self.other_teacher(teacher))

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        for name in names:
            if name not in self.record.signals:
                raise SignalError(
                    f"the {owner}'s record holds no {name!r}; {nearest(name, self.record.signals)}: record it with "
                    f"--signals {','.join([*self.record.signals, name])}"
                )
            if name not in self.wanted:
                self.wanted.append(name)

    def __call__(self, x: Any, view: str, index: Tensor) -> Output:
        """For views that are not random, where no epoch matters."""
        if self.view(view)["random"]:
            raise SettingError(f"the view {view!r} is random: ask a record by lookup(batch, view)")
        return self.output(view, 0, index)

    def lookup(self, batch: Batch, view: str) -> Output:
        """What the teacher said of these examples on the view that was drawn with the batch's seed, in its epoch."""
        random = self.view(view)["random"]
        if random and batch.seed != self.record.header["seed"]:
            self.refuse(identity.differences(self.record.header, {"seed": batch.seed}))
        output = self.output(view, batch.epoch if random else 0, batch.index)
        coded = None if output.coded is None else replace(output.coded, convert=batch.convert)
        return Output({name: batch.convert(signal) for name, signal in output.signals.items()}, coded=coded)

    def view(self, name: str) -> dict[str, Any]:
        views = self.record.header["views"]
        if name not in views:
            raise SignalError(
                f"the teacher's record holds no view {name!r}; {nearest(name, views)}: record it with --views "
                f"{','.join([*views, name])}"
            )
        self.asked.add(name)
        return views[name]  # type: ignore[no-any-return]

    def output(self, view: str, epoch: int, index: Tensor) -> Output:
        ids = index.cpu().numpy()
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.record.examples:
            raise DataError(f"ids {ids.min()} to {ids.max()}, and the record has {self.record.examples} examples")
        found: dict[str, Any] = {}
        coded = None
        for name in self.wanted:
            signal = self.record.signals[name]
            rows = self.shards.rows(view, epoch, ids, signal)
            if name == ".logits":
                coded = Coded(signal, rows, signal.width, index.device, self.head)
            else:
                found[name] = signal.decode(rows, self.head).to(index.device)
        return Output(found, coded=coded)

    def check(self, run: Run) -> None:
        """Raises RecordError unless the record is of this run's data, of the views that its method asks for, drawn
        with its seed, and long enough."""
        header, data = self.record.header, run.train_data
        now = {"data": identity.of_data(data)}
        self.refuse(identity.differences(header, now))
        for name in sorted(self.asked & header["views"].keys()):
            view = header["views"][name]
            self.refuse(identity.view_differences(name, view, identity.of_view(data, name, header["seed"])))
            if not view["random"]:
                continue
            self.refuse(identity.differences(header, {"seed": run.seed}))
            if run.unlabelled is not None:
                raise RecordError(
                    f"a run with a ratio of unlabelled examples draws the view {name!r} anew in every step, which no "
                    f"record holds: ask the teacher for a view that is not random, or run it"
                )
            if view["epochs"] < run.epochs:
                raise RecordError(
                    f"{self.record.path} holds {view['epochs']} epochs of the view {name!r}, the run has {run.epochs}: "
                    f"record more with --views {name}:epochs={run.epochs}"
                )
        for shard in self.record.missing():
            if shard.view in self.asked and shard.epoch < run.epochs:
                self.record.need(shard.file)

    def other_teacher(self, teacher: Any) -> list[str]:
        """How a model differs from the one that was recorded."""
        from limbeck.teachers import as_teacher

        recorded = self.record.header["teacher"]
        now = identity.of_teacher(as_teacher(teacher))
        return identity.differences({"teacher": recorded}, {"teacher": {**now, "answers": recorded["answers"]}})

    def refuse(self, differences: list[str]) -> None:
        if differences:
            raise RecordError(
                f"{self.record.path} is a record of something else: {'; '.join(differences)}. Use what was recorded, "
                f"or record anew into another folder (this one was made by {self.record.header['command']})"
            )


@dataclass(frozen=True, eq=False)
class Coded:
    """Logits as the record holds them, the first `classes` of a row: decoded when they are wanted, so that those of a
    large vocabulary are never there all at once. Called with some rows, it makes (n, ..., classes)."""

    signal: Signal
    rows: NDArray[Any]
    classes: int
    device: torch.device
    head: Mapping[str, Tensor] | None = None
    convert: Callable[[Tensor], Tensor] = lambda logits: logits

    def __call__(self, rows: slice) -> Tensor:
        logits = self.signal.decode(self.rows[rows], self.head)[..., : self.classes]
        return self.convert(logits.to(self.device))

    def cut(self, classes: int) -> Coded:
        return replace(self, classes=classes)

    def at(self, positions: Tensor) -> Coded:
        """Of sequences (b, n): the places of a mask (b, n), a row each."""
        if self.signal.shape[:-1] != positions.shape[1:]:
            raise ShapeError(
                f"the labels are of tokens, {tuple(positions.shape)}, and the record has logits of "
                f"{(len(self.rows), *self.signal.shape)}: record the teacher with these texts"
            )
        places = positions.cpu().numpy()
        signal = replace(self.signal, shape=self.signal.shape[-1:])
        rows = np.empty(int(places.sum()), signal.dtype)
        for name in signal.dtype.names or ():
            rows[name] = self.rows[name][places]
        return replace(self, signal=signal, rows=rows)


class Shards:
    """The files of a record. One of up to `resident` bytes is memory-mapped; of a larger one each row is read at its
    place, since a kernel may map megabytes of cached file around every row that is touched."""

    OPEN = 256  # files at a time

    def __init__(self, record: Record, verify: bool, resident: int) -> None:
        self.record, self.verify = record, verify
        self.mapped = sum(each["bytes"] for each in record.shards.values()) <= resident
        self.opened: OrderedDict[tuple[str, int, int], Any] = OrderedDict()
        self.verified: set[str] = set()

    def rows(self, view: str, epoch: int, ids: NDArray[np.int64], signal: Signal) -> NDArray[Any]:
        """(n,) of the signal's dtype, for n examples in any order."""
        blocks, places = np.divmod(ids, self.record.header["block"])
        there = np.empty((len(ids), signal.stop - signal.start), np.uint8)
        if self.mapped:
            for block in np.unique(blocks).tolist():
                chosen = blocks == block
                there[chosen] = self.open(view, epoch, block)[places[chosen], signal.start : signal.stop]
        else:
            for row, block, place in zip(there, blocks.tolist(), places.tolist(), strict=True):
                os.preadv(
                    self.open(view, epoch, block).fileno(), [row.data], place * self.record.row_bytes + signal.start
                )
        return there.view(signal.dtype)[:, 0]

    def open(self, view: str, epoch: int, block: int) -> Any:
        """Mapped, (rows, bytes per row) uint8, or a file to read from; checked when it is first opened."""
        shard = view, epoch, block
        if shard not in self.opened:
            file = file_of(*shard)
            self.record.need(file, contents=self.verify and file not in self.verified)
            self.verified.add(file)
            opened = open(self.record.path / file, "rb")  # noqa: SIM115 - closed when it is dropped
            if self.mapped:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                self.opened[shard] = np.frombuffer(mapped, np.uint8).reshape(-1, self.record.row_bytes)
            else:
                self.opened[shard] = opened
            if len(self.opened) > self.OPEN:
                self.opened.popitem(last=False)
        self.opened.move_to_end(shard)
        return self.opened[shard]
