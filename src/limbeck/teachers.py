"""Where targets come from: frozen models, committees of them, averages of the student's past, banks of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from limbeck.errors import CheckpointError, SettingError
from limbeck.signals import Net, Output, as_net
from limbeck.targets import pooled


@runtime_checkable
class Teacher(Protocol):
    """Run, looked up or averaged: all teachers are called alike.

    x: the view's inputs; view: its name; index (rows,): the examples' ids, all that a record of targets needs.

    Two methods are optional, for teachers that do not run. `lookup(batch, view) -> Output` is called instead where it
    is there: a batch knows the seed and the epoch that its views are drawn with. `check(run)` is called once, before
    training and after the method has asked for its views on two examples, and raises if the teacher does not fit.
    """

    def __call__(self, x: Any, view: str, index: Tensor) -> Output: ...

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None: ...


class Still(nn.Module):
    """A module that stays in eval mode, whatever its parent does."""

    def train(self, mode: bool = True) -> Still:
        return super().train(False)


class Frozen(nn.Module):
    """A model that is asked, never changed: eval mode, inference mode, no gradient.

    training: True leaves it in train mode (batch statistics, dropout); its buffers are then put back after each
        forward, so that it still is the same teacher for every batch.
    """

    def __init__(self, model: nn.Module, *, training: bool = False) -> None:
        super().__init__()
        self.net = as_net(model).requires_grad_(False)
        self.in_training = training
        self.train(training)

    def train(self, mode: bool = True) -> Frozen:
        return super().train(self.in_training)

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        self.net.read(names, owner=owner)

    def forward(self, x: Any, view: str = "x", index: Tensor | None = None) -> Output:
        with torch.inference_mode():
            if not self.in_training:
                return self.net(x)  # type: ignore[no-any-return]
            before = [buffer.clone() for buffer in self.net.buffers()]
            output: Output = self.net(x)
            for buffer, value in zip(self.net.buffers(), before, strict=True):
                buffer.copy_(value)
            return output


class Committee(nn.Module):
    """Several teachers as one: its probabilities are the mean of theirs (Hinton et al. 2015).

    With `mean="geometric"` the logarithms are averaged, which is the mean of the logits. Only logits can be asked for.
    A method that softens each member before the mean takes the members instead: `Run(teacher=[a, b])`.
    """

    def __init__(self, *members: nn.Module, mean: Literal["arithmetic", "geometric"] = "arithmetic") -> None:
        super().__init__()
        if not members or mean not in ("arithmetic", "geometric"):
            raise SettingError(f"Committee(*models, mean='arithmetic' or 'geometric'); got {len(members)}, {mean!r}")
        self.members = nn.ModuleList(Frozen(member) for member in members)
        self.mean = mean

    def read(self, names: Iterable[str], *, owner: str = "teacher") -> None:
        names = list(names)
        if names:
            raise SettingError(f"a committee has logits only, no {names}: use one teacher, or a method without layers")

    def forward(self, x: Any, view: str = "x", index: Tensor | None = None) -> Output:
        logits = torch.stack([member(x).logits for member in self.members])
        return Output({".logits": pooled(logits, self.mean)})


class EMA(Still):
    """An exponential moving average of a student: parameters and float buffers, followed once per step.

    decay: share of the old value that is kept. The first `follow` copies.
    """

    def __init__(self, net: Net, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise SettingError(f"decay is in [0, 1); got {decay}")
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.requires_grad_(False)
        self.train()

    def follow(self, net: nn.Module) -> None:
        self.average.update_parameters(net)

    def forward(self, x: Any) -> Output:
        with torch.no_grad():
            return self.average(x)  # type: ignore[no-any-return]


class Bank(nn.Module):
    """One remembered row per training example, by id; (num_examples, width)."""

    values: Tensor
    filled: Tensor

    def __init__(self, num_examples: int, width: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(num_examples, width))
        self.register_buffer("filled", torch.zeros(num_examples, dtype=torch.bool))

    def read(self, index: Tensor, *, default: Tensor) -> Tensor:
        """(rows, width): what was written last, and `default` (rows, width) where nothing was."""
        return torch.where(self.filled[index].unsqueeze(1), self.values[index], default)

    def write(self, index: Tensor, rows: Tensor) -> None:
        self.values[index] = rows.to(self.values.dtype)
        self.filled[index] = True


def only(teachers: Sequence[Any]) -> Any:
    """The one teacher of a method for one."""
    if len(teachers) != 1:
        have = f"{len(teachers)} teachers" if teachers else "no teacher"
        mend = "use a method for several, or Committee(*models)" if teachers else "give Run(teacher=...)"
        raise SettingError(f"this method asks for one teacher and the run has {have}: {mend}")
    return teachers[0]


def as_teacher(teacher: Any) -> Any:
    """A teacher as it is (it can `read`), or a module, frozen; a folder is that of a transformers model."""
    if isinstance(teacher, str | Path):
        teacher = pretrained(Path(teacher))
    if isinstance(teacher, nn.Module) and not isinstance(teacher, Frozen | Committee) and not is_teacher(teacher):
        return Frozen(teacher)
    if isinstance(teacher, nn.Module) or is_teacher(teacher):
        return teacher
    kind = type(teacher).__name__
    raise SettingError(
        f"a teacher is an nn.Module, the folder of one, or has read() and __call__(x, view, index); got a {kind}"
    )


def pretrained(folder: Path) -> nn.Module:
    """A transformers model from the folder where `save_pretrained` put it: causal, seq2seq or a classifier, whichever
    it was. Weights are safetensors only, and no code of the folder is run. Raises CheckpointError."""
    if not (folder / "config.json").is_file():
        what = (
            "an adapter, not a whole model" if (folder / "adapter_config.json").is_file() else "no transformers model"
        )
        raise CheckpointError(
            f"{folder} holds {what} (no config.json): give the folder of save_pretrained, or the model itself"
        )
    import transformers

    name = (json.loads((folder / "config.json").read_text()).get("architectures") or ["model without a name"])[0]
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{folder} holds a {name}, no class of transformers, and no code of a folder is run: load the model and "
            f"give it as it is"
        )
    model: nn.Module = cast(Any, kind).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model


def is_teacher(teacher: Any) -> bool:
    return isinstance(teacher, Teacher) and not isinstance(teacher, Net)
