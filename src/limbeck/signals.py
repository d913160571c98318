"""A model, whatever it returns, as a source of signals: logits, embedding, hidden states, tapped layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import SettingError, ShapeError, SignalError, nearest

if TYPE_CHECKING:
    from limbeck.records.cached import Coded

#: Signals that are no layer of their own. They start with a dot, so no module path can be mistaken for one.
EMBEDDING, HIDDEN, ATTENTION = ".embedding", ".hidden", ".attention"

Signal = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer of a language model, which makes logits from what enters it.

    weight (v, width), bias (v,) or None. The logits are multiplied by `scale`; with a softcap c they then become
    c tanh(logits / c), in (-c, c) (Gemma 2).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __post_init__(self) -> None:
        if self.softcap is not None and self.softcap <= 0:
            raise SettingError(f"a softcap is positive, or None for none; got {self.softcap}")

    @property
    def classes(self) -> int:
        return len(self.weight)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., v)"""
        return finished(F.linear(hidden, self.weight, self.bias), self.scale, self.softcap)

    def cut(self, classes: int) -> Head:
        """Of the first classes alone: the rest pads the vocabulary."""
        bias = None if self.bias is None else self.bias[:classes]
        return Head(self.weight[:classes], bias, self.scale, self.softcap)


def finished(products: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Logits, of the products of a head's weight with what enters it."""
    logits = products if scale == 1 else scale * products
    return logits if softcap is None else softcap * (logits / softcap).tanh()


class Output:
    """What one model said of one view of a batch.

    `.logits` (b, classes), `.embedding` (b, width): what enters the last linear layer, `.hidden` and `.attention`:
    tuples with a tensor per layer (Hugging Face models, GPT), `[".hidden.2"]`: one of them, if it was read,
    `["layer.path"]`: the output of that module, if tapped.

    head: makes the logits from the embedding when they are first asked for; coded: a record's, decoded then. None of
    them: the model gave them itself.
    """

    def __init__(
        self,
        signals: dict[str, Signal],
        versions: Mapping[str, int] | None = None,
        head: Head | None = None,
        coded: Coded | None = None,
    ) -> None:
        self.signals = signals
        self.versions = dict(versions or {})
        self.head, self.coded = head, coded

    def __getitem__(self, name: str) -> Any:
        if name == ".logits" and name not in self.signals:
            if self.head is not None:
                self.signals[name] = self.head(self.embedding)
            elif self.coded is not None:
                self.signals[name] = self.coded(slice(None))
        if name not in self.signals:
            raise SignalError(
                f"this output has no signal {name!r}; {nearest(name, self.signals)} "
                f"A layer must be named in the objective's `reads` to be tapped."
            )
        signal = self.signals[name]
        if isinstance(signal, Tensor):
            if name in self.versions and signal._version != self.versions[name]:
                raise SignalError(
                    f"layer {name!r} was changed in place after it was read (by an in-place activation, say): "
                    f"tap the module that comes after it, or build the model with inplace=False"
                )
            if signal.is_inference():  # a frozen teacher's: autograd may have to save it for the backward pass
                signal = self.signals[name] = signal.clone()
        elif any(part.is_inference() for part in signal):
            signal = self.signals[name] = tuple(part.clone() for part in signal)
        return signal

    @property
    def logits(self) -> Tensor:
        return self[".logits"]  # type: ignore[no-any-return]

    @property
    def embedding(self) -> Tensor:
        return self[EMBEDDING]  # type: ignore[no-any-return]

    @property
    def hidden(self) -> tuple[Tensor, ...]:
        return self[HIDDEN]  # type: ignore[no-any-return]

    @property
    def attention(self) -> tuple[Tensor, ...]:
        return self[ATTENTION]  # type: ignore[no-any-return]

    def cut(self, classes: int) -> Output:
        """With as many logits. Raises ShapeError if it has fewer."""
        made = self.head or self.coded
        have = self.logits.shape[-1] if made is None else made.classes
        if have < classes:
            raise ShapeError(f"the vocabulary has {classes} tokens and the model {have} logits: build it for {classes}")
        if have == classes:
            return self
        if made is None:
            return Output(self.signals | {".logits": self.logits[..., :classes]}, self.versions)
        signals = {name: signal for name, signal in self.signals.items() if name != ".logits"}
        head = self.head and self.head.cut(classes)
        return Output(signals, self.versions, head, self.coded and self.coded.cut(classes))

    def at(self, positions: Tensor) -> Output:
        """What it says at some places of its sequences, in rows: those signals that begin with (b, n), as the mask
        `positions` does. In a model that makes its logits by a head, others are never made."""
        places = positions.shape
        found: dict[str, Signal] = {}
        for name in self.signals:
            signal = self[name]
            if isinstance(signal, Tensor):
                if signal.shape[:2] == places:
                    found[name] = signal[positions]
            elif all(part.shape[:2] == places for part in signal):
                found[name] = tuple(part[positions] for part in signal)
        coded = self.coded and self.coded.at(positions)
        if not found and coded is None:
            raise ShapeError(
                f"the labels are of tokens, {tuple(places)}, and no signal has a row for each: {self.shapes}; give "
                f"labels (n,) for whole sequences, or a model with logits for every token"
            )
        return Output(found, head=self.head, coded=coded)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors, the logits among them."""
        made = [".logits"] if self.head is not None or self.coded is not None else []
        tensors = {name: self[name] for name in [*self.signals, *made] if isinstance(self[name], Tensor)}
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def split(self, sizes: Sequence[int]) -> list[Output]:
        """The outputs of the batches that were joined for one forward."""
        parts: list[dict[str, Signal]] = [{} for _ in sizes]
        for name in self.signals:
            signal = self[name]
            pieces = (
                signal.split(sizes)
                if isinstance(signal, Tensor)
                else zip(*(layer.split(sizes) for layer in signal), strict=True)
            )
            for part, piece in zip(parts, pieces, strict=True):
                part[name] = piece
        return [Output(part, head=self.head) for part in parts]


class Tap:
    """A forward hook that keeps what passes. An object, not a closure, so that copies of a net keep their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: Tensor | None = None
        self.version = 0  # of what was kept: it tells whether it was changed in place since

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kept": None}  # copies and files hold no activations

    def output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.keep(output)

    def input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.keep(args[0])

    def keep(self, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value  # (output, attention weights, ...): the first
        if not isinstance(value, Tensor):
            raise SignalError(f"layer {self.name!r} gives a {type(value).__name__}, no tensor: tap a layer within it")
        if value.is_inference():  # no version tells of a change in place after it
            with torch.inference_mode(False):
                value = value.clone()
        self.kept, self.version = value, value._version

    def take(self) -> Tensor:
        if self.kept is None:
            raise SignalError(f"layer {self.name!r} did not run in this forward: tap one that always does")
        kept, self.kept = self.kept, None
        return kept


class Normalize(nn.Module):
    """(x - mean) / std per channel, for images (b, c, h, w). Teacher and student may each have their own."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise SettingError(f"Normalize needs as many means as positive deviations; got mean={mean}, std={std}")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Net(nn.Module):
    """Any module as a source of signals.

    forward: how an input is handed over, `(module, x) -> result`; by default a tensor is the argument, a mapping
        the keyword arguments, a tuple the arguments.
    inputs: applied to the input first, e.g. this model's own `Normalize(mean, std)`.
    head: path of the last layer, whose input is the embedding; by default the last `nn.Linear`.

    Called with inputs, and with the view's name and the examples' ids, which only other kinds of teachers need.
    The result may be a tensor (the logits), a tuple (the logits come first), a mapping or a Hugging Face ModelOutput
    (with a key "logits"; "hidden_states" and "attentions" are read as well).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        inputs: Callable[[Any], Any] | None = None,
        head: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(module, Net):
            raise SettingError("this model is a Net already: pass it as it is")
        self.module = module
        self.hand_over = forward or hand_over
        self.inputs = inputs
        self.head = head
        self.taps: dict[str, Tap] = {}
        self.places: dict[str, tuple[str, int]] = {}  # ".hidden.2": (".hidden", 2)

    def forward(self, x: Any, view: str = "x", index: Tensor | None = None) -> Output:
        for tap in self.taps.values():
            tap.kept = None  # of a call of the module itself
        raw = self.hand_over(self.module, x if self.inputs is None else self.inputs(x))
        signals = as_signals(raw)
        head = raw.head if isinstance(raw, Output) else None
        taken = [name for name in self.taps if name != EMBEDDING or name not in signals]
        signals |= {name: self.taps[name].take() for name in taken}
        for name, (every, place) in self.places.items():
            layers = signals.get(every, ())
            if place >= len(layers):
                raise SignalError(f"the model ({self.kind}) gives {len(layers)} {every!r}, and {name!r} was asked for")
            signals[name] = layers[place]
        return Output(signals, {name: self.taps[name].version for name in taken}, head)

    def read(self, names: Iterable[str], *, owner: str = "model") -> None:
        """Tap these layers (or `.embedding`, `.hidden`, `.attention`, one of these such as `.hidden.2`) from now on.

        Raises SignalError for a layer that is not there, naming the nearest ones.
        """
        for name in names:
            if name in self.taps:
                continue
            every, _, place = name.rpartition(".")
            if every in (HIDDEN, ATTENTION) and place.isdecimal():
                self.places[name] = every, int(place)
            if {name, every} & {HIDDEN, ATTENTION}:
                self.ask_config(every or name, owner)
                continue
            tap = Tap(name)
            if name == EMBEDDING:
                self.last(owner).register_forward_pre_hook(tap.input)
            else:
                self.layer(name, owner).register_forward_hook(tap.output)
            self.taps[name] = tap

    @property
    def kind(self) -> str:
        return type(self.module).__name__

    def layer(self, path: str, owner: str) -> nn.Module:
        layers: dict[str, nn.Module] = {path: layer for path, layer in self.module.named_modules() if path}
        if path not in layers:
            raise SignalError(f"the {owner} ({self.kind}) has no layer {path!r}; {nearest(path, layers)}")
        return layers[path]

    def last(self, owner: str) -> nn.Module:
        """The last layer: the one named as head, else the last linear one."""
        return self.layer(self.head, owner) if self.head else self.last_linear(owner)

    def last_linear(self, owner: str) -> nn.Linear:
        linear: list[nn.Linear] = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear)]
        if not linear:
            raise SignalError(
                f"the {owner} ({self.kind}) has no nn.Linear whose input could be its embedding: "
                f"name its last layer, Net(model, head='...')"
            )
        return linear[-1]

    def ask_config(self, name: str, owner: str) -> None:
        config = getattr(self.module, "config", None)
        flag = "output_hidden_states" if name == HIDDEN else "output_attentions"
        if config is None or not hasattr(config, flag):
            raise SignalError(
                f"the {owner} ({self.kind}) has no config.{flag} to ask for {name!r}: "
                f"return a mapping with 'hidden_states' or 'attentions' by Net(model, forward=...)"
            )
        try:
            setattr(config, flag, True)
        except ValueError as error:  # attention of a kind that does not keep its maps
            raise SignalError(f"the {owner} ({self.kind}) cannot give {name!r}: {error}") from error


def as_net(model: nn.Module) -> Net:
    """The model itself if it is a Net, else a Net with the default ways."""
    if not isinstance(model, nn.Module):
        raise SettingError(f"a model is an nn.Module; got a {type(model).__name__}. Wrap a function in a module first")
    if isinstance(model, Net):
        return model
    return Net(model, forward=Headless() if Headless.fits(model) else None)


def bare(model: nn.Module) -> Any:
    """The model within that an adapter of peft was put into; itself, where there is none, or where it adds tokens."""
    adapter: Any = getattr(model, "active_peft_config", None)
    if adapter is None or adapter.is_prompt_learning:
        return model
    return model.get_base_model()  # type: ignore[operator]


class Headless:
    """How a transformers language model is asked: its body runs, and its logits are made when they are wanted. At the
    first batch it is compared with the whole model, and given up if the logits are not just its head's."""

    def __init__(self) -> None:
        self.exact: bool | None = None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        model = bare(model)
        config = getattr(model, "config", None)
        if config is None or getattr(config, "is_encoder_decoder", False):
            return False
        head = getattr(model, "get_output_embeddings", lambda: None)()
        return isinstance(head, nn.Linear) and getattr(model, "base_model", model) is not model

    def __call__(self, model: Any, x: Any) -> Any:
        if self.exact is None:
            self.exact = isinstance(x, Mapping) and self.compared(model, x)
        return self.short(bare(model), x) if self.exact else hand_over(model, x)

    def short(self, model: Any, x: Mapping[str, Any]) -> Output:
        config, head = model.config, model.get_output_embeddings()
        signals = as_signals(model.base_model(**x))
        signals[EMBEDDING] = signals.pop("last_hidden_state")
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        return Output(signals, head=Head(head.weight, head.bias, scale, cap))

    def compared(self, model: Any, x: Mapping[str, Any]) -> bool:
        training = model.training
        try:
            with torch.no_grad():
                model.eval()
                few = {name: part[:1] if isinstance(part, Tensor) and part.dim() else part for name, part in x.items()}
                short, whole = self.short(bare(model), few).logits, as_signals(hand_over(model, few))[".logits"]
                return torch.allclose(short, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))  # type: ignore[arg-type, union-attr]
        except (AttributeError, KeyError, RuntimeError, TypeError):
            return False
        finally:
            model.train(training)


def hand_over(module: nn.Module, x: Any) -> Any:
    """A mapping as keyword arguments, a tuple as arguments, anything else as the argument."""
    if isinstance(x, Mapping):
        return module(**x)
    return module(*x) if isinstance(x, tuple) else module(x)


def as_signals(raw: Any) -> dict[str, Signal]:
    """A model's result, in whatever form, as named signals."""
    if isinstance(raw, Tensor):
        return {".logits": raw}
    if isinstance(raw, Output):
        return dict(raw.signals)
    if isinstance(raw, Mapping):
        named = {"logits": ".logits", "hidden_states": HIDDEN, "attentions": ATTENTION, "embedding": EMBEDDING}
        signals: dict[str, Signal] = {}
        for key, signal in raw.items():
            name = named.get(key, str(key))
            if isinstance(signal, Tensor):
                signals[name] = signal
            elif isinstance(signal, tuple | list) and signal and all(isinstance(part, Tensor) for part in signal):
                signals[name] = tuple(signal)
        if not signals:
            raise SignalError(
                f"the model returned a mapping without a tensor ({list(raw)}); use Net(model, forward=...)"
            )
        return signals
    if isinstance(raw, tuple | list) and raw and isinstance(raw[0], Tensor):
        return {".logits": raw[0]}
    raise SignalError(
        f"the model returned a {type(raw).__name__}; a tensor, tuple, mapping or ModelOutput can be read, "
        f"and Net(model, forward=lambda module, x: ...) makes one of anything else"
    )


def same_shape(what: str, student: Tensor, teacher: Tensor, mend: str) -> None:
    """Raise ShapeError unless both have one shape; `mend` says what to type."""
    if student.shape != teacher.shape:
        shapes = f"the student gives {tuple(student.shape)}, the teacher {tuple(teacher.shape)}"
        raise ShapeError(f"{what}: {shapes}; {mend}")
