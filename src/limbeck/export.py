"""A student made ready to leave: safetensors with a config that loads them, ONNX, int8 ONNX, a Hugging Face folder.

    export(student, "out", test=(x, y), builder="resnet8", arguments={"channels": 1, "classes": 10, "size": 28})
    student = load("out")    # inputs as in training -> logits

Only the student goes along, with the normalisation of its inputs: no teacher, no bridge, no hook of a tapped layer.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.data import Texts, as_data, pick
from limbeck.deployed import (
    CONFIG,
    HEADS,
    HF,
    INT8,
    ONNX,
    WEIGHTS,
    Student,
    load,
    load_onnx,
    readme,
    rebuild,
    refuse_pickled,
)
from limbeck.errors import CheckpointError, SettingError, nearest
from limbeck.evaluate import cost, fidelity, predict, scores
from limbeck.experiment import (
    Experiment,
    Material,
    checksum,
    load_model,
    names_of,
    prepare,
    refuse_changed,
    save_model,
    student_run,
)
from limbeck.judging import environment
from limbeck.onnx import Runtime, named, need_onnx, quiet, write_int8, write_onnx
from limbeck.signals import Net, Normalize, Tap, as_net
from limbeck.teachers import pretrained

__all__ = ["FORMATS", "export", "export_run", "load", "load_onnx"]

FORMATS = ("safetensors", "onnx", "hf")
TORCH, TRANSFORMERS, ONNXRUNTIME, QUANTISED = "torch", "transformers", "onnxruntime", "onnxruntime int8"
FILES = {TORCH: WEIGHTS, TRANSFORMERS: f"{HF}/model.safetensors", ONNXRUNTIME: ONNX, QUANTISED: INT8}

#: Largest difference of the logits that an export may make, relative to the largest logit if that is above 1.
TOLERANCE = 1e-4

Measured = dict[str, dict[str, float]]


def export(
    model: nn.Module,
    folder: Path | str,
    *,
    example: Any = None,
    test: Any = None,
    formats: Sequence[str] | None = None,
    int8: bool = False,
    builder: str | Callable[..., nn.Module] | None = None,
    arguments: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Measured:
    """Write a model to a new folder, whole or not at all, and compare and measure what was written.

    Args:
        model: a module or a Net; it is copied, and stays as it is.
        example: inputs of an example or more, for want of `test`: a tensor (b, ...), a mapping or a tuple of such.
        test: examples as for a Run, all of which are compared. Byte images count as [0, 1].
        formats: of "safetensors", "onnx" and, for a model of transformers, "hf"; by default ONNX and the one of the
            other two that suits the model.
        int8: also the ONNX file in 8 bits. It gives other logits, and may be slower: see what is measured.
        builder: what `load` makes the module with: a name for `models.build`, "module:function", or the function.
        arguments: the builder's, by name: numbers, texts, lists.
        about: more for config.json, e.g. the method and the names of the classes.

    Returns: for "torch", "transformers" (loaded from hf), "onnxruntime" and "onnxruntime int8"
        difference: largest absolute difference of a logit from the model's; of "torch" if a builder was given, with
            which the model was loaded again.
        agreement: share of the examples with the same class; accuracy, nll, ece: as `evaluate.scores`, with labels.
        bytes: of the file; latency_ms, latency_ms_iqr, throughput: as `evaluate.cost`, on the CPU.

    Raises:
        SettingError: the folder is not empty, a format does not suit the model, or a package is missing.
        CheckpointError: the logits of an exported file differ by more than TOLERANCE.
    """
    folder, examples = Path(folder), Examples(test, example)
    refuse_overwriting(folder)
    student = Student(bare(model)).eval()
    formats = suitable(formats, student.net, int8)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        place = Path(temporary) / folder.name
        place.mkdir()
        forms = write(student, examples.one, place, formats, int8)
        config = {
            **(about or {}),
            "model": {"builder": reference(builder), "arguments": arguments or {}, "head": head_of(student.net)},
            "input": description(student.net, examples),
            "files": {
                file.relative_to(place).as_posix(): {"bytes": file.stat().st_size, "sha256": checksum(file)}
                for file in sorted(place.rglob("*"))
                if file.is_file()
            },
        }
        if WEIGHTS in config["files"] and builder is not None:
            forms[TORCH] = rebuild(place, config, trust=True, builder=builder if callable(builder) else None)
        measured = measure(student, forms, examples)
        for name, row in measured.items():
            if FILES[name] in config["files"]:
                row["bytes"] = config["files"][FILES[name]]["bytes"]
        config |= {"measured": measured, "environment": environment("cpu", "32-true")}
        (place / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        (place / "README.md").write_text(readme(config))
        os.replace(place, folder)
    return measured


def export_run(folder: Path, out: Path, *, formats: Sequence[str] | None = None, int8: bool = False) -> Measured:
    """`export` of the student of a run's folder, compared on all test examples. Raises as `export`, and CheckpointError
    for weights that are pickled, changed, of another model, or not as accurate as result.json says."""
    refuse_overwriting(out)
    if folder.is_file():
        refuse_pickled(folder)
    for name in ("run.yaml", WEIGHTS):
        if not (folder / name).is_file():
            raise SettingError(
                f"{folder} has no {name}: give the folder of a finished run, e.g. limbeck export runs/demo; one that "
                f"was interrupted goes on with limbeck distill --out {folder} --resume"
            )
    refuse_pickled(folder / WEIGHTS)
    refuse_changed(folder / WEIGHTS)
    e = Experiment.read(folder / "run.yaml").with_settings(accelerator="cpu", precision="32-true", compile=False)
    material = prepare(e)
    net = trained(material, folder / WEIGHTS)
    as_accurate(net, material, folder / "result.json")
    return export(
        net,
        out,
        test=material.test,
        formats=formats,
        int8=int8,
        builder=names_of(e.student)[0],
        arguments=material.source.built_with,
        about={
            "title": f"{e.student} on {e.data}",
            "method": repr(e.objective()),
            "classes": material.classes,
            **({"words": material.source.words} if isinstance(material.source, Texts) else {}),
        },
    )


def trained(material: Material, path: Path) -> Net:
    """The student of an experiment with its weights."""
    e = material.experiment
    net = material.model(names_of(e.student)[0], seed=e.seed)
    try:
        load_model(net, path)
    except CheckpointError:  # some methods put another head on the student
        teachers = [material.model(name, seed=0) for name in names_of(e.teacher)]
        run = student_run(material, e.objective(), teachers, None, None)
        run.setup()
        net = run.students[0]
        load_model(net, path)
    return net


def as_accurate(net: Net, material: Material, result: Path) -> None:
    """Other data show by the accuracy, and so do other weights where result.json has no checksum of them."""
    if material.test.y is None or not result.is_file():
        return
    *_, figures = json.loads(result.read_text())["models"].values()
    accuracy = scores(predict(net.eval(), Examples(material.test)), material.test.y)["accuracy"]
    if abs(accuracy - figures["accuracy"]) > 0.01:  # less may be another device's rounding
        raise CheckpointError(
            f"{result.parent / WEIGHTS} reaches {accuracy:.1%} on the test examples, and {result.name} says "
            f"{figures['accuracy']:.1%}: these are not the weights or the data of this run. Distil it again"
        )


class Examples:
    """What an export is tried on: all test examples, in batches, or the given ones."""

    def __init__(self, test: Any = None, example: Any = None) -> None:
        from lightning_fabric.utilities import move_data_to_device  # slow to import

        if test is None and example is None:
            raise SettingError("what does the model take? Give test=(x, y), or example=x")
        self.data = None if test is None else as_data(test)
        self.y = None if self.data is None else self.data.y
        self.example = move_data_to_device(example, "cpu") if self.data is None else self.data.example(1).view("x")
        self.one = pick(self.example, torch.tensor([0]))

    def __iter__(self) -> Iterator[Any]:
        if self.data is None:
            yield self.example
            return
        for batch in self.data.batches(list(torch.arange(self.data.num_examples).split(512))):
            yield batch.view("x")


def refuse_overwriting(folder: Path) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SettingError(f"{folder} is there already: remove it, or export to another folder (--out)")


def bare(model: nn.Module) -> Net:
    """A copy on the CPU, without the hooks and the wishes that training left in it."""
    net = model.net if isinstance(model, Student) else as_net(model)
    module = copy.deepcopy(getattr(net.module, "_orig_mod", net.module)).cpu()  # not the compiled one
    for layer in module.modules():
        for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), Tap)]:
                del hooks[key]
    config = getattr(module, "config", None)
    for wish in ("output_hidden_states", "output_attentions"):
        if getattr(config, wish, False):
            setattr(config, wish, False)
    inputs = copy.deepcopy(net.inputs)
    if isinstance(inputs, nn.Module):
        inputs.cpu()
    return Net(module, forward=net.hand_over, inputs=inputs, head=net.head)


def suitable(formats: Sequence[str] | None, net: Net, int8: bool) -> Sequence[str]:
    """The formats asked for, or by default; those that cannot be are refused before anything is written."""
    transformer = any(base.__name__ == "PreTrainedModel" for base in type(net.module).__mro__)
    if formats is None:
        formats = ("hf" if transformer else "safetensors", "onnx")
    for name in formats:
        if name not in FORMATS:
            raise SettingError(f"there is no format {name!r}; {nearest(name, FORMATS)}")
    if "hf" in formats and not transformer:
        raise SettingError(f"the format hf is for models of transformers, not for a {net.kind}: take safetensors")
    if int8 and "onnx" not in formats:
        raise SettingError("int8 is made from the ONNX file: add onnx to the formats")
    if "onnx" in formats:
        need_onnx()
    return formats


def write(student: Student, x: Any, place: Path, formats: Sequence[str], int8: bool) -> dict[str, nn.Module]:
    """The files of each format in the folder `place`; what is to be measured: the student, and what reads them."""
    forms: dict[str, nn.Module] = {TORCH: student}
    if "safetensors" in formats:
        save_model(student.net, place / WEIGHTS)
    if "hf" in formats:
        with quiet():
            student.net.module.save_pretrained(place / HF)  # type: ignore[operator]
            again = pretrained(place / HF)
        forms[TRANSFORMERS] = Student(Net(again, inputs=student.net.inputs)).eval()
    if "onnx" in formats:
        write_onnx(student, x, place / ONNX)
        forms[ONNXRUNTIME] = Runtime(place / ONNX)
    if int8:
        write_int8(place / ONNX, place / INT8)
        forms[QUANTISED] = Runtime(place / INT8)
    return forms


def measure(student: Student, forms: Mapping[str, nn.Module], examples: Examples) -> Measured:
    """What each form gives and costs. Raises CheckpointError for one that gives other logits, but in int8."""
    truth = predict(student, examples)
    spent = cost(forms, examples.one)
    measured: Measured = {}
    for name, form in forms.items():
        row = measured[name] = {key: spent[name][key] for key in ("latency_ms", "latency_ms_iqr", "throughput")}
        logits = predict(form, examples)
        if form is not student:
            row["difference"] = float((logits - truth).abs().masked_fill(logits == truth, 0).max())  # -inf is -inf
            if name != QUANTISED and not row["difference"] <= TOLERANCE * max(1, float(truth.abs().max())):
                raise CheckpointError(
                    f"the logits differ by {row['difference']:.2g} from the model's when they come from {name}"
                    + (": does the builder make this very model?" if name == TORCH else "; nothing was written")
                )
        if truth.dim() == 2:
            row["agreement"] = fidelity(logits, truth)["agreement"]
            row |= {} if examples.y is None else scores(logits, examples.y)
    return measured


def reference(builder: str | Callable[..., nn.Module] | None) -> str | None:
    return f"{builder.__module__}:{builder.__qualname__}" if callable(builder) else builder


def head_of(net: Net) -> dict[str, Any] | None:
    """The head that a method put on the student, and its settings."""
    for layer in net.module.modules():
        if type(layer) in HEADS.values():
            return {"kind": type(layer).__name__} | ({"parts": layer.parts} if hasattr(layer, "parts") else {})
    return None


def description(net: Net, examples: Examples) -> dict[str, Any]:
    """What the model takes, for config.json."""
    normalize = net.inputs if isinstance(net.inputs, Normalize) else None
    pixels = examples.data is not None and getattr(examples.data.x, "dtype", None) == torch.uint8
    return {
        "tensors": {
            name: {"shape": ["batch", *x.shape[1:]], "dtype": str(x.dtype).removeprefix("torch.")}
            for name, x in named(examples.one).items()
        },
        "range": [0, 1] if pixels else None,
        "mean": None if normalize is None else normalize.mean.flatten().tolist(),
        "std": None if normalize is None else normalize.std.flatten().tolist(),
    }
