"""What a record is of: fingerprints of a teacher, of data and of views, and how two of them differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import Batch, Data
from limbeck.data.draws import uniform

SAMPLE = 16  # examples that a sketch is taken of


def of_teacher(teacher: Any, answers: Tensor | None = None) -> dict[str, Any]:
    """Its parameters and buffers to the bit, its layers' kinds, and a sketch of what it answers."""
    net = getattr(teacher, "net", teacher)
    kind = type(getattr(net, "module", net)).__name__
    found: dict[str, Any] = {"kind": kind, "sha256": None, "answers": sketch(answers)}
    if isinstance(net, nn.Module):
        digest = hashlib.sha256()
        for name, module in net.named_modules():
            digest.update(f"{name}: {type(module).__name__}\n".encode())
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            digest.update(name.encode())
            add(digest, tensor)
        found["sha256"] = digest.hexdigest()
    return found


def of_data(data: Data) -> dict[str, Any]:
    """How many examples, and the bits of inputs that are in memory; of others the sketch of a view tells. Labels are
    no part of it: a record serves any choice of labels."""
    digest = hashlib.sha256()
    if data.in_memory:
        for part in tensors(data.x):
            add(digest, part)
    return {"examples": data.num_examples, "sha256": digest.hexdigest() if data.in_memory else None}


def of_view(data: Data, view: str, seed: int) -> dict[str, Any]:
    """Is it random, the code that makes it where it prints as such, and a sketch of what it shows."""
    code = repr(data.views.get(view))
    return {
        "random": is_random(data, view, seed),
        "code": None if " at 0x" in code or "<function" in code else code,
        "shows": sketch(sample(data, SAMPLE, seed).view(view)),
    }


def sample(data: Data, most: int, seed: int, epoch: int = 0) -> Batch:
    """Evenly spaced examples, at most so many."""
    valid = data.masks.get("valid")
    ids = torch.arange(data.num_examples) if valid is None else valid.nonzero().flatten()
    ids = ids[torch.linspace(0, len(ids) - 1, min(most, len(ids))).long()]
    return next(data.batches([ids], seed=seed, epoch=epoch))


def is_random(data: Data, view: str, seed: int) -> bool:
    """Does it draw numbers, or do a Dataset's own transforms?"""
    drew = False

    def draw(stream: str, n: int) -> Tensor:
        nonlocal drew
        drew = True
        return uniform(seed, batch.index, epoch=0, stream=stream, n=n)

    batch = sample(data, SAMPLE, seed)
    if view in data.views:
        data.views[view](batch.inputs, draw)
    if data.in_memory or drew:
        return drew
    again = sample(data, SAMPLE, seed, epoch=1)
    return sketch(batch.inputs) != sketch(again.inputs)


def sketch(x: Any) -> list[list[float]]:
    """Four random projections of each row of a batch, whose rounding may differ between machines."""
    parts = []
    for part in tensors(x):
        rows = part.detach().cpu().flatten(1).double() if part.dim() > 1 else part.detach().cpu()[:, None].double()
        weights = uniform(0, torch.arange(rows.shape[1]), epoch=0, stream="sketch", n=4).double() - 0.5
        parts.append((rows.nan_to_num()[..., None] * weights).sum(1))
    total = torch.stack(parts).sum(0) if parts else torch.zeros(0, 4)
    return [[float(f"{number:.6g}") for number in row] for row in total.tolist()]


def alike(first: list[list[float]], second: list[list[float]]) -> bool:
    """Equal sketches, up to rounding."""
    one, two = torch.tensor(first), torch.tensor(second)
    if one.shape != two.shape:
        return False
    return bool(((one - two).abs() <= 1e-3 * one.abs().amax()).all()) if one.numel() else True


def tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        for key in sorted(x):
            yield from tensors(x[key])
    elif isinstance(x, tuple | list):
        for part in x:
            yield from tensors(part)


def add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not the same, in words: of "teacher", "data", "seed", "views" and "signals", those that both have."""
    found = []
    if "teacher" in recorded and "teacher" in now:
        old, new = recorded["teacher"], now["teacher"]
        if old["kind"] != new["kind"]:
            found.append(f"the teacher: recorded was a {old['kind']}, this is a {new['kind']}")
        elif old["sha256"] != new["sha256"]:
            found.append(f"the teacher: this {new['kind']} has other weights or layers than the recorded one")
        elif not alike(old["answers"], new["answers"]):
            found.append(f"the teacher: this {new['kind']} has the recorded weights and gives other answers")
    if "data" in recorded and "data" in now:
        old, new = recorded["data"], now["data"]
        if old["examples"] != new["examples"]:
            found.append(f"the data: {old['examples']} examples were recorded, these are {new['examples']}")
        elif old["sha256"] != new["sha256"]:
            found.append("the data: other inputs, or in another order or form, than those recorded")
    views = recorded.get("views", {}), now.get("views", {})
    for name in views[0].keys() & views[1].keys():
        found += view_differences(name, views[0][name], views[1][name])
    if now.get("seed", recorded.get("seed")) != recorded.get("seed"):
        found.append(f"the seed: recorded with seed={recorded['seed']}, this is seed={now['seed']}")
    if now.get("signals", recorded.get("signals")) != recorded.get("signals"):
        coded = ({name: each["encoding"] for name, each in side["signals"].items()} for side in (recorded, now))
        found.append("the signals: recorded {}, these are {}".format(*coded))
    return found


def view_differences(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    codes = old["code"], new["code"]
    if None not in codes and codes[0] != codes[1]:
        return [f"the view {name!r}: recorded was {codes[0]}, this is {codes[1]}"]
    if old["random"] != new["random"] or not alike(old["shows"], new["shows"]):
        return [f"the view {name!r}: it shows the examples otherwise than when they were recorded"]
    return []
