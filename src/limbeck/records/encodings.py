"""How a signal of the teacher is written: a row of bytes of fixed length for each example or token, and back.

Encodings are frozen values with pure, vectorised functions. "topk=10/missing=none" and TopK(10, missing="none") are
the same. Of sparse ones, `decode` gives logits (n, width), which are the logarithms of the probabilities that were
kept, up to a constant: methods that use the size of logits, not only their differences, need a dense record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields as settings_of
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import SettingError, nearest
from limbeck.records.bits import EliasFano, pack, packed_bytes, unpack
from limbeck.signals import EMBEDDING

Array = NDArray[Any]
Sparse = tuple[Tensor, Tensor, Tensor]

#: The logit of what has no probability: finite, so that 0 * log 0 is 0, and far enough for any temperature in use.
NOTHING = -1e4
#: What a coded row leaves to the other classes is known to about this; less would make them impossible.
LEAST_REST = 1e-6

#: Names of number types -> how numpy stores them; it has no bfloat16, so that is carried in 16 bits.
DTYPES: dict[str, str] = {"fp64": "<f8", "fp32": "<f4", "fp16": "<f2", "bf16": "<i2"}
TORCH = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Encoding:
    """fields(width): name -> (dtype, numbers per row). encode(values (n, width), u (n,)): those fields, (n, numbers)
    each; u: uniform numbers in [0, 1). decode(fields, width): (n, width), at least float32.
    """

    source: ClassVar[str | None] = None  # the signal that is written in place of the one asked for

    def fields(self, width: int) -> dict[str, tuple[str, int]]:
        raise NotImplementedError

    def encode(self, values: Tensor, u: Tensor) -> dict[str, Array]:
        raise NotImplementedError

    def decode(self, coded: Mapping[str, Array], width: int, head: Mapping[str, Tensor] | None = None) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Dense(Encoding):
    """Every number, as fp64, fp32, fp16 or bf16."""

    dtype: Literal["fp64", "fp32", "fp16", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, DTYPES)

    def fields(self, width: int) -> dict[str, tuple[str, int]]:
        return {"values": (DTYPES[self.dtype], width)}

    def encode(self, values: Tensor, u: Tensor) -> dict[str, Array]:
        return {"values": to_array(values, self.dtype)}

    def decode(self, coded: Mapping[str, Array], width: int, head: Mapping[str, Tensor] | None = None) -> Tensor:
        return to_tensor(coded["values"], self.dtype)


@dataclass(frozen=True)
class Head(Dense):
    """Logits as what enters the last linear layer, whose weights the record holds once; rebuilt to rounding."""

    source: ClassVar[str | None] = EMBEDDING

    def decode(self, coded: Mapping[str, Array], width: int, head: Mapping[str, Tensor] | None = None) -> Tensor:
        assert head is not None
        hidden = super().decode(coded, width)
        bias = head["bias"].to(hidden) if "bias" in head else None
        return F.linear(hidden, head["weight"].to(hidden), bias)


@dataclass(frozen=True)
class Kept(Encoding):
    """Some classes and their log-probabilities. `missing`: where the other classes' probability goes: "uniform", each
    of them gets the same; "none", nowhere: the kept ones are all there is."""

    k: int
    missing: Literal["uniform", "none"] = "uniform"

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        one_of("missing", self.missing, ("uniform", "none"))

    def sparse(self, coded: Mapping[str, Array], width: int) -> Sparse:
        """Classes (n, k) int64, their log-probabilities (n, k), and the probability of all others (n,)."""
        raise NotImplementedError

    def decode(self, coded: Mapping[str, Array], width: int, head: Mapping[str, Tensor] | None = None) -> Tensor:
        ids, log_p, rest = self.sparse(coded, width)
        tail = torch.full_like(rest, NOTHING)
        if self.missing == "uniform" and width > self.k:
            tail = (rest.clamp(min=LEAST_REST) / (width - self.k)).log()
        return tail[:, None].repeat(1, width).scatter_(1, ids, log_p)


@dataclass(frozen=True)
class TopK(Kept):
    """The k most probable classes: a log-probability and an id each, 4 bytes per class below 65,536 classes."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("dtype", self.dtype, ("fp32", "fp16", "bf16"))

    def fields(self, width: int) -> dict[str, tuple[str, int]]:
        enough(self.k, width)
        return {"ids": ("<u2" if width <= 1 << 16 else "<u4", self.k), "log_p": (DTYPES[self.dtype], self.k)}

    def encode(self, values: Tensor, u: Tensor) -> dict[str, Array]:
        top = values.double().log_softmax(-1).topk(self.k)
        ids = top.indices.numpy().astype(self.fields(values.shape[1])["ids"][0])
        return {"ids": ids, "log_p": to_array(top.values.clamp(min=NOTHING), self.dtype)}

    def sparse(self, coded: Mapping[str, Array], width: int) -> Sparse:
        log_p = to_tensor(coded["log_p"], self.dtype)
        return torch.from_numpy(coded["ids"].astype(np.int64)), log_p, 1 - log_p.exp().sum(1)


@dataclass(frozen=True)
class Quantised(Kept):
    """The k most probable classes as a set (Elias-Fano code), their probabilities in `bits` bits each, on levels whose
    fourth roots are evenly spaced between the row's largest and smallest. The logarithms of those two and of the
    missing mass are exact to fp16, and the kept ones are scaled to leave just that mass.

    Even levels of p**c: c = 0, the logarithm, spends too much on the smallest; 1/4 to 1/2 gave the least error of the
    student's gradient on Zipf-shaped rows, and up to 1/4 the KL is as small as with the logarithm.
    """

    bits: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("bits", self.bits, 1)
        if self.bits > 16:
            raise SettingError(f"bits is at most 16; got {self.bits}: topk=K/dtype=fp32 is finer")

    def fields(self, width: int) -> dict[str, tuple[str, int]]:
        enough(self.k, width)
        ids, values = EliasFano(self.k, width).bytes, packed_bytes(self.k, self.bits)
        return {"range": ("<f2", 3), "ids": ("|u1", ids), "values": ("|u1", values)}

    def encode(self, values: Tensor, u: Tensor) -> dict[str, Array]:
        log_p = values.double().log_softmax(-1).clamp(min=NOTHING)
        top, ids = log_p.topk(self.k)
        ids, order = ids.sort(-1)
        rest = (1 - top.exp().sum(1)).clamp(min=LEAST_REST / 10).log()
        limits = torch.stack([top[:, 0], top[:, -1], rest], 1).half().double()
        high, low = limits[:, :1], limits[:, 1:2]
        roots, low, high = ((each / 4).exp() for each in (top.gather(1, order), low, high))
        codes = (roots - low) / (high - low).clamp(min=1e-12) * ((1 << self.bits) - 1)
        codes = codes.round().clamp(0, (1 << self.bits) - 1)
        set_of = EliasFano(self.k, values.shape[1])
        return {
            "range": limits.numpy().astype("<f2"),
            "ids": set_of.encode(ids.numpy()),
            "values": pack(codes.long().numpy(), self.bits),
        }

    def sparse(self, coded: Mapping[str, Array], width: int) -> Sparse:
        ids = EliasFano(self.k, width).decode(coded["ids"])
        limits = torch.from_numpy(coded["range"].astype(np.float32))
        (high, low), rest = (limits[:, :2] / 4).exp().unbind(1), limits[:, 2].exp()
        roots = torch.from_numpy(unpack(coded["values"], self.k, self.bits).astype(np.float32))
        p = roots.mul_(((high - low) / ((1 << self.bits) - 1))[:, None]).add_(low[:, None]).square_().square_()
        p *= ((1 - rest).clamp(min=LEAST_REST) / p.sum(1))[:, None]
        return torch.from_numpy(ids), p.log_().clamp_(min=NOTHING), rest


@dataclass(frozen=True)
class Sampled(Encoding):
    """k classes drawn with probabilities q proportional to p**t, p = softmax(logits / tau), and the unbiased estimate
    of p that they give: each draw adds p / (k q) to its class (Sparse Logit Sampling, Anshumann et al. 2025,
    arXiv:2503.16870). With t=1 the ids are all that is stored.

    The gradient of KL(p || student) in the student is linear in p, so it is unbiased too. What methods see are logits
    whose softmax at temperature tau is the estimate: record with the tau of the loss. With t != 1 the estimate does
    not sum to 1, and the softmax in a loss divides by that sum: `Weighted(KL(tau), by=SampledMass(tau))` puts it back.
    Losses that are not linear in p (reverse KL, mixtures) are biased with any sampled record.

    Deviation: the k draws of a row are spaced evenly over the distribution from one random start (systematic
    sampling), where the paper's are independent: the expectation is the same and the variance smaller.
    """

    k: int
    t: float = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        if self.tau <= 0 or self.t < 0:
            raise SettingError(f"Sampled needs tau > 0 and t >= 0; got tau={self.tau}, t={self.t}")

    def fields(self, width: int) -> dict[str, tuple[str, int]]:
        ids = {"ids": ("|u1", EliasFano(self.k, width).bytes)}
        return ids if self.t == 1 else ids | {"log_w": ("<f4", self.k)}

    def encode(self, values: Tensor, u: Tensor) -> dict[str, Array]:
        log_p = (values.double() / self.tau).log_softmax(-1)
        log_q = log_p if self.t == 1 else (self.t * log_p).log_softmax(-1)
        upto = log_q.exp().cumsum(-1)
        points = (torch.arange(self.k) + u[:, None]) / self.k * upto[:, -1:]
        ids = torch.searchsorted(upto, points, right=True).clamp(max=values.shape[1] - 1)
        coded: dict[str, Array] = {"ids": EliasFano(self.k, values.shape[1]).encode(ids.numpy())}
        if self.t != 1:
            coded["log_w"] = (log_p - log_q).gather(1, ids).numpy().astype("<f4")
        return coded

    def decode(self, coded: Mapping[str, Array], width: int, head: Mapping[str, Tensor] | None = None) -> Tensor:
        ids = torch.from_numpy(EliasFano(self.k, width).decode(coded["ids"]))
        weights = torch.ones(ids.shape) if self.t == 1 else to_tensor(coded["log_w"], "fp32").exp()
        p = torch.zeros(len(ids), width).scatter_add_(1, ids, weights / self.k)
        return (p.log() * self.tau).clamp_(min=NOTHING)


NAMED: dict[str, type[Any]] = {"topk": TopK, "quantised": Quantised, "sampled": Sampled, "head": Head, "dense": Dense}


def parse(text: str | Encoding) -> Encoding:
    """ "fp16", "topk=10", "topk=10/missing=none", "quantised=50/bits=4", "sampled=50/t=0.8", "head=bf16"."""
    if isinstance(text, Encoding):
        return text
    name = re.split("[=/]", text)[0]
    if text in DTYPES:
        return Dense(text)  # type: ignore[arg-type]
    if name not in NAMED:
        raise SettingError(f"no encoding {text!r}; {nearest(name, [*NAMED, *DTYPES])}")
    kind = NAMED[name]
    known = {each.name: each for each in settings_of(kind)}
    given: dict[str, Any] = {}
    for part in text.split("/"):
        key, _, value = part.partition("=")
        key = next(iter(known)) if key == name else key  # topk=10 sets the first
        if key not in known:
            raise SettingError(f"{name} in {text!r} has no setting {key!r}; {nearest(key, known)}")
        if value:
            given[key] = number(value)
    try:
        return kind(**given)  # type: ignore[no-any-return]
    except TypeError as error:
        raise SettingError(f"{text!r}: {error}; write e.g. {name}=10") from error


def number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def as_settings(encoding: Encoding) -> dict[str, Any]:
    """For a manifest; `from_settings` gives the encoding back."""
    name = next(name for name, kind in NAMED.items() if kind is type(encoding))
    return {"name": name, **asdict(encoding)}  # type: ignore[call-overload]


def from_settings(settings: Mapping[str, Any]) -> Encoding:
    rest = {name: value for name, value in settings.items() if name != "name"}
    return NAMED[settings["name"]](**rest)  # type: ignore[no-any-return]


def to_array(values: Tensor, dtype: str) -> Array:
    cast = values.to(TORCH[dtype])
    if dtype == "fp16" and not bool(cast.isfinite().all()):
        raise SettingError(f"fp16 ends at 65504 and values reach {values.abs().max():.3g}: take bf16 or fp32")
    array: Array = (cast.view(torch.int16) if dtype == "bf16" else cast).numpy()
    return array


def to_tensor(array: Array, dtype: str) -> Tensor:
    """At least float32, on the CPU."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    tensor = tensor.view(torch.bfloat16) if dtype == "bf16" else tensor
    return tensor if dtype == "fp64" else tensor.float()


def one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise SettingError(f"{name} is one of {', '.join(known)}; got {value!r}")


def at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise SettingError(f"{name} is a whole number of at least {least}; got {value!r}")


def enough(k: int, width: int) -> None:
    if k > width:
        raise SettingError(f"k={k} classes of {width}: take k={width} at most, or a dense encoding")
