"""An exported student, read again: nothing in the folder is run, and nothing but what was exported is read.

config.json says how the module is built and has the SHA-256 sum of every file. The sums find damage and mix-ups;
against someone who may write both, compare config.json with one that came another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.errors import CheckpointError
from limbeck.experiment import checksum, load_model
from limbeck.heads import DualHead, Subclasses, graft
from limbeck.models import build
from limbeck.onnx import Runtime, as_called, need_onnx
from limbeck.own import own
from limbeck.signals import Net, Normalize, as_net
from limbeck.teachers import pretrained

CONFIG, WEIGHTS, ONNX, INT8, HF = "config.json", "student.safetensors", "student.onnx", "student.int8.onnx", "hf"
HEADS: dict[str, Any] = {kind.__name__: kind for kind in (DualHead, Subclasses)}  # that methods put on a student
PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")

Builder = Callable[..., nn.Module]


class Student(nn.Module):
    """A model as it is deployed: inputs as in training, before normalisation -> logits (b, classes)."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.net(as_called(args, kwargs)).logits  # type: ignore[no-any-return]


def load(folder: Path | str, *, trust: bool = False, builder: Builder | None = None) -> Student:
    """The student that `export` wrote, in eval mode, on the CPU.

    Args:
        folder: the export's.
        trust: import and call the "module:function" that config.json names, if the model is somebody's own.
        builder: called with config.json's arguments in place of that; returns the untrained module, or a Net of it.

    Raises CheckpointError for a file that was changed, is pickled or missing, and where code would be run unasked.
    """
    folder = Path(folder)
    return rebuild(folder, checked(folder), trust=trust, builder=builder)


def load_onnx(folder: Path | str, *, int8: bool = False) -> Runtime:
    """The exported ONNX file under ONNX Runtime: inputs as in training -> logits. Raises as `load`."""
    need_onnx()
    folder, name = Path(folder), INT8 if int8 else ONNX
    if name not in checked(folder)["files"]:
        raise CheckpointError(f"{folder} was exported without {name}")
    return Runtime(present(folder / name))


def checked(folder: Path) -> dict[str, Any]:
    """config.json, when every file that it names and that is there is the one that was exported."""
    if folder.is_file():
        refuse_pickled(folder)
        raise CheckpointError(f"{folder} is a file: give the folder that limbeck export wrote")
    path = present(folder / CONFIG)
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        sums = {name: str(each["sha256"]) for name, each in config["files"].items()}
        missing = {"builder", "arguments", "head"} - set(config["model"]) | {"mean", "std"} - set(config["input"])
        if missing or (config["model"]["head"] or {"kind": "DualHead"})["kind"] not in HEADS:
            raise LookupError(f"no {', '.join(sorted(missing)) or 'such head'}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no config of an export: {error!r}") from error
    for name, told in sums.items():
        file = folder / name
        if not re.fullmatch(r"(hf/)?\w[\w.-]*", name):
            raise CheckpointError(f"{path} names {name!r}, which is no file of an export")
        if not file.is_file():
            continue  # the others may do
        refuse_pickled(file)
        if checksum(file) != told:
            raise CheckpointError(
                f"{file} is not the file that was exported (its SHA-256 sum is not the one in {CONFIG}): it is "
                f"damaged or was changed; take a fresh copy, or export again"
            )
    return config


def rebuild(folder: Path, config: Mapping[str, Any], *, trust: bool, builder: Builder | None) -> Student:
    model, normalisation = config["model"], config["input"]
    if WEIGHTS in config["files"]:
        builder = builder or builder_of(model["builder"], trust, folder)
        arguments = {name: tuple(each) if isinstance(each, list) else each for name, each in model["arguments"].items()}
        try:
            net = as_net(builder(**arguments))
        except TypeError as error:
            raise CheckpointError(f"the builder cannot be called with {arguments} of {CONFIG}: {error}") from error
        if model["head"] is not None:
            settings = dict(model["head"])
            kind = HEADS[settings.pop("kind")]
            graft(net, kind, partial(kind, **settings))
        load_model(net, present(folder / WEIGHTS))
    elif f"{HF}/{CONFIG}" in config["files"]:
        for name in config["files"]:
            if name.startswith(HF):
                present(folder / name)
        net = Net(pretrained(folder / HF))
    else:
        raise CheckpointError(f"{folder} was exported without {WEIGHTS}; for its ONNX file there is load_onnx(folder)")
    if net.inputs is None and normalisation["mean"] is not None:
        net.inputs = Normalize(normalisation["mean"], normalisation["std"])
    return Student(net).eval()


def builder_of(reference: str | None, trust: bool, folder: Path) -> Builder:
    """What config.json names: one of Limbeck's models, or a function that is only imported for one who trusts it."""
    if reference is None:
        raise CheckpointError(
            f"{folder / CONFIG} does not say what builds this model: load(folder, builder=function), where the "
            f"function returns the untrained module"
        )
    if ":" not in reference:
        return partial(build, reference)
    if not trust:
        raise CheckpointError(
            f"this student is built by {reference}, which would be imported and run: if you know that code, "
            f"load(folder, trust=True), or import it yourself and load(folder, builder=function)"
        )
    function: Builder = own(reference)
    return function


def refuse_pickled(path: Path) -> None:
    """Raises CheckpointError for a file that could run code, by its name or its first bytes."""
    with open(path, "rb") as file:
        head = file.read(9)
    # safetensors: the length of a JSON header in 8 bytes, then the header
    safe = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
    pickled = head.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if path.suffix in PICKLED or (path.suffix == ".safetensors" and pickled and not safe):
        raise CheckpointError(
            f"{path} is a pickled file, which can run code when it is read, and so is refused. If you trust where it "
            f"comes from, read its weights with torch.load(path, weights_only=True), load them into the model and "
            f"write them with safetensors.torch.save_model(model, {WEIGHTS!r})"
        )
    if path.suffix == ".safetensors" and not safe:
        raise CheckpointError(f"{path} is no safetensors file: it is damaged, or something else under that name")


def present(path: Path) -> Path:
    if not path.exists():
        there = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        raise CheckpointError(f"{path.parent} has no {path.name}; there is: {', '.join(there) or 'nothing'}")
    return path


def readme(config: Mapping[str, Any]) -> str:
    """How to use what is there, also without Limbeck."""
    files, builder, tensors = config["files"], config["model"]["builder"], config["input"]["tensors"]
    takes = ", ".join(
        f"{name}: {each['dtype']} ({', '.join(map(str, each['shape']))})" for name, each in tensors.items()
    )
    lines = [f"# {config.get('title', 'A student')}", ""]
    lines += [f"Distilled by `{config['method']}`.", ""] if "method" in config else []
    lines += [f"Takes {takes}{', from 0 to 1' if config['input']['range'] else ''}; gives logits (batch, classes)."]
    if config["input"]["mean"]:
        lines += [
            f"It normalises its inputs itself{', but for what is in ' + HF if HF + '/config.json' in files else ''}."
        ]
    if WEIGHTS in files or HF + "/config.json" in files:
        argument = ""
        if WEIGHTS in files and (builder is None or ":" in builder):
            argument = ", trust=True" if builder else ", builder=function_that_returns_the_module"
        lines += block("from limbeck.export import load", "", f'student = load("."{argument})', "logits = student(x)")
    if ONNX in files:
        feed = ", ".join(f'"{name}": {name}' for name in tensors)
        session = f'session = onnxruntime.InferenceSession("{ONNX}")' + (f"  # or {INT8}" if INT8 in files else "")
        lines += block("import onnxruntime", "", session, f"[logits] = session.run(None, {{{feed}}})  # NumPy arrays")
    lines += ["", f"{CONFIG} has the SHA-256 sum of every file, and what was measured.", ""]
    return "\n".join(lines)


def block(*lines: str) -> list[str]:
    return ["", "```python", *lines, "```"]
