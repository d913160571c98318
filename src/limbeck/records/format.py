"""A record on the disk.

    record/
      manifest.json           of what (teacher, data, views, seed), how coded, and the checksum of each shard
      x.0000.00000.shard      view x, epoch 0, the first block of examples: rows of equal length and nothing else
      head.safetensors        the teacher's last layer, where logits are rebuilt from the embedding
      part-0-of-2.jsonl       while capture goes on: the shards that this process has finished
      .lock                   held for moments by the processes that write

Files are written whole or not at all; a shard counts once it is listed. Nothing here can run code.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from torch import Tensor

from limbeck.errors import RecordError
from limbeck.records.encodings import Encoding, Head, from_settings

FORMAT = 1


class Shard(NamedTuple):
    """Where it belongs: some consecutive examples on a view in an epoch."""

    view: str
    epoch: int
    start: int
    rows: int
    file: str


@dataclass(frozen=True)
class Signal:
    """One signal within a row: an encoding applied along the last dimension of its shape."""

    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    start: int = 0  # in the row's bytes
    stored: int = 0  # Head: the width of what is written

    @property
    def width(self) -> int:
        return self.shape[-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one example: every field with the leading dimensions, then its own."""
        width = self.stored if isinstance(self.encoding, Head) else self.width
        fields = self.encoding.fields(width).items()
        return np.dtype([(name, dtype, (*self.shape[:-1], count)) for name, (dtype, count) in fields])

    @property
    def stop(self) -> int:
        return self.start + self.dtype.itemsize

    def encode(self, values: Tensor, u: Tensor) -> np.ndarray[Any, Any]:
        """(rows, *shape) as (rows,) of `dtype`. u: (rows, positions), a number for each."""
        if tuple(values.shape[1:-1]) != tuple(self.shape[:-1]):
            raise RecordError(
                f"a record's examples have one shape: those of {self.name!r} begin with {tuple(self.shape[:-1])}, and "
                f"here is {tuple(values.shape[1:-1])}. Pad all texts to one length (a collator's padding='max_length')"
            )
        rows = np.empty(len(values), self.dtype)
        coded = self.encoding.encode(values.flatten(0, -2), u.flatten())
        for name, field in coded.items():
            rows[name] = field.reshape(rows[name].shape)
        return rows

    def decode(self, rows: np.ndarray[Any, Any], head: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n,) of `dtype` to (n, *shape)."""
        fields = {name: rows[name].reshape(-1, rows[name].shape[-1]) for name in rows.dtype.names or ()}
        return self.encoding.decode(fields, self.width, head).reshape(len(rows), *self.shape)


@dataclass
class Record:
    """A record that is there: `header` as in the manifest, `shards` file -> its size and checksum."""

    path: Path
    header: dict[str, Any]
    shards: dict[str, dict[str, Any]]

    @staticmethod
    def capture(path: Path | str, teacher: Any, data: Any, **settings: Any) -> Record:
        """Write what a teacher says; see `limbeck.records.capture.capture`."""
        from limbeck.records.capture import capture

        return capture(path, teacher, data, **settings)

    @classmethod
    def open(cls, path: Path | str) -> Record:
        """Raises RecordError for a manifest that is not there, damaged, or of another version."""
        path = Path(path)
        try:
            header = json.loads((path / "manifest.json").read_text())
            if header["format"] != FORMAT:
                raise RecordError(f"{path} has format {header['format']}, this Limbeck reads {FORMAT}: record it anew")
            shards, checksum = header.pop("shards"), header.pop("sha256")
        except FileNotFoundError as error:
            raise RecordError(
                f"{path} is no teacher record (there is no manifest.json in it): write one with limbeck record"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(
                f"{path / 'manifest.json'} is damaged ({error!r}): record anew into an empty folder"
            ) from error
        if digest(header, shards) != checksum:
            raise RecordError(
                f"{path / 'manifest.json'} is not as it was written (its checksum differs): restore it, or record "
                f"anew: {header.get('command')}"
            )
        record = cls(path, header, shards)
        record.shards = shards | record.listed()
        return record

    # ---- what is in it ----------------------------------------------------------------------------------------------

    @property
    def examples(self) -> int:
        return self.header["data"]["examples"]  # type: ignore[no-any-return]

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """By name, in the order in which they lie in a row."""
        found: dict[str, Signal] = {}
        start = 0
        for name, each in self.header["signals"].items():
            encoding = from_settings(each["encoding"])
            found[name] = Signal(name, encoding, tuple(each["shape"]), start, stored=each["stored"])
            start = found[name].stop
        return found

    @property
    def row_bytes(self) -> int:
        return list(self.signals.values())[-1].stop

    def expected(self) -> Iterator[Shard]:
        """All shards of a whole record, epoch by epoch, so that one cut short holds whole epochs."""
        views, block = self.header["views"], self.header["block"]
        for epoch in range(max(view["epochs"] for view in views.values())):
            for name, view in views.items():
                if epoch < view["epochs"]:
                    for start in range(0, self.examples, block):
                        rows = min(block, self.examples - start)
                        yield Shard(name, epoch, start, rows, file_of(name, epoch, start // block))

    def missing(self) -> list[Shard]:
        return [shard for shard in self.expected() if shard.file not in self.shards]

    # ---- reading ----------------------------------------------------------------------------------------------------

    def fault(self, file: str, *, contents: bool = True) -> str | None:
        """What is wrong with a shard, if anything: not captured, not there, cut short, or other bytes in it."""
        if file not in self.shards:
            return "is not captured yet"
        listed = self.shards[file]
        try:
            size = (self.path / file).stat().st_size
            if size != listed["bytes"]:
                return f"has {size} bytes and should have {listed['bytes']}"
            if contents and crc_of(self.path / file) != listed["crc32"]:
                return "has other bytes than were written (its checksum differs)"
        except FileNotFoundError:
            return "is missing"
        return None

    def need(self, file: str, *, contents: bool = True) -> None:
        """Raises RecordError, with the command that records a shard again, unless it is as it was written."""
        fault = self.fault(file, contents=contents)
        if fault:
            raise RecordError(
                f"{self.path / file} {fault}. Record what is missing or broken again, the rest is kept: "
                f"{self.header['command']}"
            )

    def verify(self) -> None:
        """Every shard against its checksum. Raises RecordError for the first that is not as it was written."""
        for shard in self.expected():
            self.need(shard.file)
        self.head()

    def head(self) -> dict[str, Tensor] | None:
        """The last layer's weight and bias, if logits are rebuilt by it."""
        if self.header["head"] is None:
            return None
        from safetensors.torch import load

        try:
            content = (self.path / "head.safetensors").read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != self.header["head"]:
            raise RecordError(
                f"{self.path / 'head.safetensors'} is missing or not as it was written: {self.header['command']}"
            )
        return load(content)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        whole = {**self.header, "shards": dict(sorted(self.shards.items()))}
        write(self.path / "manifest.json", json.dumps({**whole, "sha256": digest(self.header, self.shards)}, indent=1))

    def listed(self) -> dict[str, dict[str, Any]]:
        """What parts of an unfinished capture have listed; a last line that a kill cut off does not count."""
        found = {}
        for part in sorted(self.path.glob("part-*.jsonl")):
            try:
                lines = part.read_text().splitlines()
            except FileNotFoundError:  # another process has just finished the whole
                continue
            for line in lines:
                try:
                    entry = json.loads(line)
                    found[entry.pop("file")] = entry
                except (ValueError, KeyError):
                    continue
        return found

    def add(self, shard: Shard, rows: np.ndarray[Any, Any], part: Path) -> None:
        """Write a shard, whole, then list it in this part's file."""
        payload = rows.view(np.uint8).data
        write(self.path / shard.file, payload)
        entry = {"bytes": payload.nbytes, "crc32": zlib.crc32(payload)}
        with open(part, "a") as file:
            file.write(json.dumps({"file": shard.file, **entry}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.shards[shard.file] = entry

    def finish(self) -> bool:
        """Put all parts' lists into the manifest if nothing is missing; whichever process is last does so."""
        with locked(self.path):
            self.shards |= Record.open(self.path).shards  # with those that other parts have listed
            if self.missing():
                return False
            self.save()
            for rest in [*self.path.glob("part-*.jsonl"), *self.path.glob("*.partial")]:
                rest.unlink(missing_ok=True)
        return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; a kill frees it."""
    held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks files that are open for writing only
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def file_of(view: str, epoch: int, block: int) -> str:
    return f"{quote(view, safe='')}.{epoch:04}.{block:05}.shard"


def digest(header: Mapping[str, Any], shards: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([header, shards], sort_keys=True).encode()).hexdigest()


def crc_of(path: Path) -> int:
    """Read in pieces, not mapped: it shall not count as resident."""
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc = zlib.crc32(piece, crc)
    return crc


def write(path: Path, content: str | memoryview | bytes) -> None:
    """Whole or not at all, and on the disk when this returns."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)
