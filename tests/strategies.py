"""What the tests generate, and `LOSSES`, the registry that every loss of rows joins, so that each property is tested
of all of them."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import settings, strategies as st
from jaxtyping import install_import_hook
from torch import Tensor

from limbeck.data import UNLABELLED

few = settings(max_examples=25, deadline=None, derandomize=True)

moderate = st.floats(-8, 8, width=32)
extreme = moderate | st.sampled_from([-1e4, -1e2, 0.0, 1e2, 1e4])
rows = st.integers(1, 5)


def tensors(*shape: int, numbers: st.SearchStrategy[float] = moderate) -> st.SearchStrategy[Tensor]:
    """float64 tensors. Many have equal numbers, and so ties and equal rows."""
    return hnp.arrays(np.float64, shape, elements=numbers).map(torch.from_numpy)


def logits(b: int, c: int) -> st.SearchStrategy[Tensor]:
    return tensors(b, c, numbers=extreme)


def probabilities(b: int, c: int) -> st.SearchStrategy[Tensor]:
    """Rows that sum to 1; some hold zeros."""
    return logits(b, c).map(lambda z: z.softmax(-1))


def labels(b: int, c: int) -> st.SearchStrategy[Tensor]:
    """Class numbers, UNLABELLED among them."""
    return hnp.arrays(np.int64, (b,), elements=st.integers(UNLABELLED, c - 1)).map(torch.from_numpy)


Kind = Literal["logits", "features", "maps"]


@st.composite
def batches(draw: st.DrawFn, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
    """(student, teacher, y) of one shape: (b, c) logits, (b, d) features or (b, c, h, w) maps."""
    b = draw(rows)
    shape = [draw(st.integers(2, 5))] if kind != "maps" else [draw(st.integers(1, 3)) for _ in range(3)]
    signal = tensors(b, *shape, numbers=extreme if kind == "logits" else moderate)
    return draw(signal), draw(signal), draw(labels(b, shape[0]))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """A float64 tensor without ties."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def checked_copy(package: str) -> ModuleType:
    """A second copy of a package, in which the shapes and types of all annotations are checked at every call.

    A copy, because a user is to see the library's own errors, which a check before the call would hide.
    """
    importlib.import_module(package)
    loaded = {name: module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")}
    for name in loaded:
        del sys.modules[name]
    with install_import_hook(package, "beartype.beartype"):
        copy = importlib.import_module(package)
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
        del sys.modules[name]
    sys.modules.update(loaded)
    parent, _, child = package.rpartition(".")
    setattr(sys.modules[parent], child, loaded[package])
    return copy


losses: Any = checked_copy("limbeck.losses")


@dataclass(frozen=True)
class Loss:
    """How a loss is called on what `batches(kind)` draws, and what is true of it.

    divergence: it is 0 where student and teacher are equal. couples: its rows see each other.
    """

    kind: Kind
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    divergence: bool = True
    couples: bool = False


#: By the name of the function, and what follows a "/" if it is there in several ways.
LOSSES = {
    "attention_transfer": Loss("maps", lambda s, t, y: losses.attention_transfer(s, t)),
    "contrast": Loss("features", lambda s, t, y: losses.contrast(s, noise=7), divergence=False),
    "cross_entropy": Loss("logits", lambda s, t, y: losses.cross_entropy(s, y), divergence=False),
    "cross_entropy/soft": Loss("logits", lambda s, t, y: losses.cross_entropy(s, t.softmax(-1)), divergence=False),
    "kl": Loss("logits", lambda s, t, y: losses.kl(s, t)),
    "kl/tau": Loss("logits", lambda s, t, y: losses.kl(s, t, tau=4.0)),
    "mse": Loss("features", lambda s, t, y: losses.mse(s, t)),
    "mse/maps": Loss("maps", lambda s, t, y: losses.mse(s, t)),
    "rkd_angle": Loss("features", lambda s, t, y: losses.rkd_angle(s, t), couples=True),
    "rkd_distance": Loss("features", lambda s, t, y: losses.rkd_distance(s, t), couples=True),
}

#: Public, but not losses of rows: each has its tests beside those of its file.
OTHERS = {"Chunked", "attention_map", "sampled_scores"}
