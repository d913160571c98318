"""A module as an ONNX file, the file in int8, and the file as a module again, under ONNX Runtime."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import pick
from limbeck.errors import SettingError


def need_onnx() -> None:
    """Raises SettingError where a package is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"ONNX needs {', '.join(missing)}: pip install 'limbeck[export]', or export without it, "
            f"--format safetensors"
        )


def write_onnx(module: nn.Module, x: Any, path: Path) -> None:
    """`module`, called with the inputs `x` of at least one example, as an ONNX file for batches of any size.

    The inputs are named `x`, or as in a mapping, or `x0`, `x1`, ... for a tuple; the output is `logits`. The second
    dimension of integers, such as the length of texts, is free too where the model lets it be.

    Raises SettingError for a model that torch.export cannot follow.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    two = pick(x, torch.tensor([0, 0]))  # of a batch of one, torch.export would take the size for a constant
    batch = torch.export.Dim("batch")
    free = {
        name: {0: batch, 1: torch.export.Dim.AUTO} if each.dim() > 1 and not each.is_floating_point() else {0: batch}
        for name, each in named(two).items()
    }
    shapes = {"args": (free,) if isinstance(two, Mapping) else tuple(free.values())}
    with quiet(), torch.no_grad():
        try:
            args = two if isinstance(two, tuple) else (two,)
            program = torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
            found = torch.onnx.export(
                program,
                input_names=list(free),
                output_names=["logits"],
                dynamic_shapes=shapes,  # for the names
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # whatever the model's own code meets there
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise SettingError(
                f"this model cannot be written as ONNX for batches of any size: {said} Its forward may use no value "
                f"of a tensor as a Python number; --format safetensors does without"
            ) from error
        assert found is not None
        ClearMetadataAndDocStringPass()(found.model)  # else it tells the paths of this machine
        found.save(path)


def write_int8(source: Path, path: Path) -> None:
    """The ONNX file `source` with 8-bit weights; activations are quantised as they come, by their range in the batch.

    Weights are unsigned: ONNX Runtime's convolutions are written for them, and signed ones overflow on CPUs without
    VNNI instructions, so that the accuracy measured here would not be that elsewhere.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    model.graph.ClearField("value_info")  # it holds shapes of weights, which the quantiser transposes
    with quiet():
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QUInt8)


class Runtime(nn.Module):
    """An ONNX file under ONNX Runtime on the CPU, with as many threads as torch has; called like the model."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow down whoever is next
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        given = named(as_called(args, kwargs))
        [logits] = self.session.run(None, {name: given[name].numpy() for name in self.names})
        return torch.from_numpy(logits)


def as_called(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A model's inputs as the data hold them: a mapping, a tuple or a tensor."""
    return kwargs or (args[0] if len(args) == 1 else args)


def named(x: Any) -> dict[str, Tensor]:
    """The inputs by their names in the file."""
    if isinstance(x, Mapping):
        return dict(x)
    return {f"x{i}": each for i, each in enumerate(x)} if isinstance(x, tuple) else {"x": x}


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and progress bars: the exporters have many, and none that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
