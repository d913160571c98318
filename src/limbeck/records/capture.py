"""Writing a record: batch by batch, shard by shard, resumable after a kill at any byte."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck import checks, step
from limbeck.data import Batch, Data, as_data
from limbeck.data.draws import integers
from limbeck.errors import RecordError, SettingError, SignalError, nearest
from limbeck.records import identity, inspect
from limbeck.records.encodings import Dense, Encoding, Head, as_settings, parse
from limbeck.records.format import FORMAT, Record, Shard, locked, write
from limbeck.signals import ATTENTION, EMBEDDING, HIDDEN, Net, Output
from limbeck.teachers import as_teacher

BLOCK_BYTES, BLOCK_ROWS = 1 << 26, 1 << 16  # the most that a kill can cost
ERROR_ROWS = 256  # that the error of an encoding is measured on

Watch = Callable[[int, int], None]


def capture(
    path: Path | str,
    teacher: Any,
    data: Any,
    *,
    signals: Mapping[str, str | Encoding] | Sequence[str] = (".logits",),
    views: Mapping[str, int] | Sequence[str] = ("x",),
    seed: int = 0,
    batch_size: int = 256,
    block: int | None = None,
    part: tuple[int, int] = (0, 1),
    ray: int | None = None,
    device: str | torch.device | None = None,
    command: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda done, total: None,
) -> Record:
    """Write what a teacher says of every example on some views, or go on with it.

    signals: name -> encoding, such as {".logits": "topk=10", ".embedding": "fp16", "layer3": "fp32"}.
    views: name -> epochs. A view that is not random is recorded once. seed: of the views; the run must have the same.
    block: examples per shard. part: (i, n), this process is the i-th of n that write one record together; whichever
    finishes last completes the manifest. ray: in so many parts by the nodes of a Ray cluster, see `cluster.spread`.
    device: where the teacher runs; None: a GPU if there is one.
    command: what a person types to do this again, for error messages. say, watch(rows done, rows in all): progress.

    A record that is there already is gone on with: shards that are missing or damaged are written, and more epochs or
    views are added. Raises RecordError where it is of another teacher, data, views, seed or signals, and when the disk
    is full; what was written until then is a valid, shorter record.
    """
    path, data, teacher = Path(path), as_data(data), as_teacher(teacher)
    if not 0 <= part[0] < part[1]:
        raise SettingError(f"part is (i, n) with 0 <= i < n; got {part}")
    if ray is not None:
        if ray < 1 or part != (0, 1):
            raise SettingError(f"ray is a number of parts, all of which it writes; got ray={ray}, part={part}")
        need_ray()
    settings: dict[str, Any] = {"signals": signals, "views": views, "seed": seed, "device": device}
    settings |= {"batch_size": batch_size, "block": block}
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(teacher, nn.Module):
        teacher.to(device)
    coded, epochs = wanted(data, signals, views)
    sources = {each.source or name for name, each in coded.items()}
    teacher.read(sorted(sources - {".logits"}))
    header, head = describe(teacher, data, coded, epochs, seed, batch_size, block, device)
    header["command"] = command or f"Record.capture({str(path)!r}, teacher, data, ...), as before"
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        record = start(path, header, head)
    lines = path / f"part-{part[0]}-of-{part[1]}.jsonl"
    kept = record.listed()
    if lines.exists():  # a kill may have cut its last line: what is appended must stand in a line of its own
        write(lines, "".join(json.dumps({"file": file, **entry}) + "\n" for file, entry in kept.items()))
    mine = [shard for number, shard in enumerate(record.expected()) if number % part[1] == part[0]]
    todo = [shard for shard in mine if record.fault(shard.file)]
    need = sum(shard.rows for shard in todo) * record.row_bytes
    free = shutil.disk_usage(path).free
    say(
        f"{record.row_bytes:,} bytes per example and view; {len(todo)} of {len(mine)} shards to write, {size(need)}, "
        f"{size(free)} free" + ("" if need < free else ": THIS WILL NOT FIT")
    )
    if ray is not None:
        from limbeck.records.cluster import spread

        return spread(record, teacher, data, ray, watch, {**settings, "command": header["command"]})
    total, done = sum(shard.rows for shard in mine), sum(shard.rows for shard in mine if shard not in set(todo))
    for shard in todo:
        rows = np.empty(shard.rows, np.dtype([(name, each.dtype) for name, each in record.signals.items()]))
        ids = torch.arange(shard.start, shard.start + shard.rows).split(batch_size)
        for batch in data.batches(list(ids), seed=seed, epoch=shard.epoch):
            at = slice(int(batch.index[0]) - shard.start, int(batch.index[-1]) + 1 - shard.start)
            fill(rows[at], record, ask(teacher, batch, shard.view, device), batch, shard)
            done += len(batch)
            watch(done, total)
        try:
            record.add(shard, rows, lines)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            need = sum(shard.rows for shard in mine if shard.file not in record.shards) * record.row_bytes
            raise RecordError(
                f"the disk is full: {path} holds {len(record.shards)} of {len(list(record.expected()))} shards and can "
                f"be read as far as it goes. Free {size(need)} and go on with {header['command']}"
            ) from error
    record.finish()
    return record


def wanted(
    data: Data, signals: Mapping[str, str | Encoding] | Sequence[str], views: Mapping[str, int] | Sequence[str]
) -> tuple[dict[str, Encoding], dict[str, int]]:
    """The encoding of each signal and the epochs of each view; what cannot be is said."""
    epochs = dict(views) if isinstance(views, Mapping) else dict.fromkeys(views, 1)
    for view, number in epochs.items():
        if view not in data.views:
            raise SignalError(f"the data has no view {view!r} to record; {nearest(view, data.views)}")
        if number < 1:
            raise SettingError(f"the view {view!r} is recorded for at least 1 epoch; got {number}")
    chosen = dict(signals) if isinstance(signals, Mapping) else dict.fromkeys(signals, "fp32")
    if not chosen:
        raise SettingError("no signal to record: signals={'.logits': 'fp32'}, say")
    coded = {as_signal(name): parse(encoding) for name, encoding in chosen.items()}
    for name, encoding in coded.items():
        if name != ".logits" and (encoding.source or not isinstance(encoding, Dense)):
            raise SettingError(f"{encoding!r} is for logits; {name!r} takes fp32, fp16, bf16 or fp64")
    return coded, epochs


def need_ray() -> None:
    """Raises SettingError where Ray Data is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise SettingError(f"a record over Ray needs Ray Data ({error}): pip install 'limbeck[ray]'") from error


def as_signal(name: str) -> str:
    """ "logits" is ".logits"; other names are paths of layers."""
    return f".{name}" if f".{name}" in (".logits", EMBEDDING, HIDDEN, ATTENTION) else name


def ask(teacher: Any, batch: Batch, view: str, device: torch.device) -> Output:
    """What the teacher says of a batch."""
    if device.type != "cpu":
        batch = batch.to(lambda x: moved(x, device))
    with torch.no_grad():
        return step.ask(teacher, batch.of("teacher"), view)


def moved(x: Any, device: torch.device) -> Any:
    from lightning_fabric.utilities import move_data_to_device

    return move_data_to_device(x, device)


def describe(
    teacher: Any,
    data: Data,
    coded: Mapping[str, Encoding],
    epochs: Mapping[str, int],
    seed: int,
    batch_size: int,
    block: int | None,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """The manifest's header, from what the teacher says of some examples; and its last layer if that is stored."""
    batch = identity.sample(data, ERROR_ROWS, seed)
    output = ask(teacher, batch, next(iter(epochs)), device)
    values = {name: tensor_of(output, name) for name in coded}
    head = None
    signals: dict[str, Any] = {}
    for name, encoding in coded.items():
        if isinstance(encoding, Head):
            head = head_of(teacher, output)
        stored = output[encoding.source].shape[-1] if encoding.source else 0
        signals[name] = {"encoding": as_settings(encoding), "shape": list(values[name].shape[1:]), "stored": stored}
    views = {
        name: {**(found := identity.of_view(data, name, seed)), "epochs": number if found["random"] else 1}
        for name, number in epochs.items()
    }
    few = ask(teacher, identity.sample(data, identity.SAMPLE, seed), next(iter(epochs)), device)
    header: dict[str, Any] = {
        "format": FORMAT,
        "teacher": identity.of_teacher(teacher, tensor_of(few, next(iter(coded)))),
        "data": identity.of_data(data),
        "seed": seed,
        "views": views,
        "signals": signals,
        "block": 1,
        "head": None if head is None else hashlib.sha256(as_file(head)).hexdigest(),
        "error": {},
    }
    record = Record(Path(), header, {})
    for each in record.signals.values():
        header["error"][each.name] = inspect.error(each, values[each.name], stored_of(output, each), batch, head)
    fits = max(1, min(BLOCK_ROWS, BLOCK_BYTES // record.row_bytes) // batch_size) * batch_size
    header["block"] = block or min(fits, data.num_examples)
    return header, head


def start(path: Path, header: dict[str, Any], head: Mapping[str, Tensor] | None) -> Record:
    """A new record, or the one that is there if it is of the same things, with epochs and views added."""
    if not (path / "manifest.json").exists():
        if head is not None:
            write(path / "head.safetensors", as_file(head))
        record = Record(path, header, {})
        record.save()
        return record
    record = Record.open(path)
    differences = identity.differences(record.header, header)
    if differences:
        raise RecordError(
            f"{path} holds another record: {'; '.join(differences)}. Take another folder, or record as it was: "
            f"{record.header['command']}"
        )
    if head is not None:  # it may be damaged
        write(path / "head.safetensors", as_file(head))
    views = dict(record.header["views"])
    for name, view in header["views"].items():
        views[name] = {**views.get(name, view), "epochs": max(view["epochs"], views.get(name, view)["epochs"])}
    if views != record.header["views"]:
        record.header = {**record.header, "views": views, "command": header["command"]}
        record.save()
    return record


def fill(rows: np.ndarray[Any, Any], record: Record, output: Output, batch: Batch, shard: Shard) -> None:
    """Encode what the teacher said into the rows of a batch."""
    for name, signal in record.signals.items():
        values = stored_of(output, signal)
        checks.finite(f"{name!r} of the teacher on view {shard.view!r}", values, batch.masks.get("valid"))
        rows[name] = signal.encode(values, start_points(record.header["seed"], values, batch, shard))


def start_points(seed: int, values: Tensor, batch: Batch, shard: Shard) -> Tensor:
    """(rows, positions) in [0, 1) to 53 bits: where a sampled encoding starts."""
    positions = values[0, ..., 0].numel()
    stream = f"{shard.view}/record"
    bits = integers(seed, batch.index.cpu(), epoch=shard.epoch, stream=stream, n=positions, high=1 << 53)
    return bits.double() * 2.0**-53


def tensor_of(output: Output, name: str) -> Tensor:
    signal = output[name]
    if not isinstance(signal, Tensor) or signal.dim() < 2:
        raise SettingError(f"{name!r} is no tensor with a row for each example: record layers by their paths instead")
    return signal.detach().cpu()


def stored_of(output: Output, signal: Any) -> Tensor:
    """What is written for a signal: itself, or what its encoding rebuilds it from."""
    return tensor_of(output, signal.encoding.source or signal.name)


def head_of(teacher: Any, output: Output) -> dict[str, Tensor]:
    """Weight and bias of the last layer. Raises SettingError unless it makes the logits from the embedding."""
    net = getattr(teacher, "net", None)
    last = net.last("teacher") if isinstance(net, Net) else None
    if not isinstance(last, nn.Linear):
        raise SettingError("head stores a last nn.Linear and its input; this teacher has none: take fp16 or topk=K")
    logits = nn.functional.linear(output.embedding, last.weight.detach(), last.bias)
    if not torch.allclose(logits, output.logits, rtol=1e-3, atol=1e-4):
        raise SettingError("this teacher's logits are not its last layer's output as it is: take fp16 or topk=K")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in last.named_parameters()}


def as_file(head: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(head))


def size(number: float) -> str:
    """Bytes, as a person reads them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
