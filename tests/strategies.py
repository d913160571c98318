"""What the tests generate, and `LOSSES`, the registry that every loss of rows joins, so that each property is tested
of all of them."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import settings, strategies as st
from jaxtyping import install_import_hook
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.targets import one_hot

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


#: "logits" are those of classes, whose differences alone count; "scores" are as large, but their size counts.
Kind = Literal["logits", "scores", "features", "maps"]


@st.composite
def batches(draw: st.DrawFn, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
    """(student, teacher, y) of one shape: (b, c) logits or scores, (b, d) features or (b, c, h, w) maps."""
    b = draw(rows)
    shape = [draw(st.integers(2, 5))] if kind != "maps" else [draw(st.integers(1, 3)) for _ in range(3)]
    signal = tensors(b, *shape, numbers=extreme if kind in ("logits", "scores") else moderate)
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

    divergence: it is 0 where student and teacher are equal. couples: its rows see each other. labels: a row whose y is
    UNLABELLED is nothing to it. signed: it may be negative. moving: a part of it is a constant only to the gradient.
    jumps: its gradient does so where two probabilities are near each other, as they often are among many classes.
    """

    kind: Kind
    call: Callable[[Tensor, Tensor, Tensor], Tensor]
    divergence: bool = False
    couples: bool = False
    labels: bool = False
    signed: bool = False
    moving: bool = False
    jumps: bool = False


def chances(t: Tensor) -> Tensor:
    return losses.inputs.probabilities(t)


def yes(t: Tensor) -> Tensor:
    return losses.inputs.wide(t).sigmoid()


def overlap(loss: str, **settings: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Of each class against the rest, over the labelled rows."""

    def call(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        said = yes(s) if loss == "anyloss" else s
        return getattr(losses, loss)(said, one_hot(y, s.shape[-1], s.dtype), mask=y != UNLABELLED, **settings)

    return call


def aldr(s: Tensor, t: Tensor, y: Tensor, **scores: str) -> Tensor:
    lam = losses.aldr_lambda(t, torch.full(y.shape, 3.0), lam0=1.0, **scores)
    return losses.aldr(s, y, lam, lam0=1.0, **scores)


def cmi(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Each example is a class of its own, with the teacher's distribution as its mean one."""
    return losses.cmi(s, torch.where(y == UNLABELLED, y, torch.arange(len(y))), chances(t))


def joint(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return losses.joint_cross_entropy(torch.stack([s, t], 1).repeat(1, 1, 2), y)


def emo(s: Tensor, t: Tensor, y: Tensor, **settings: Any) -> Tensor:
    return losses.emo(s, y, normal(s.shape[1], 3), **settings)


def binned(encode: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Regression of the teacher's first number, in at most 1000 bins: among more, float32 does not tell its place."""

    def call(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        s = s[:, :1000]
        return losses.cross_entropy(s, getattr(losses, encode)(t[:, 0], low=-4.0, high=4.0, bins=s.shape[1]))

    return call


#: By the name of the function, and what follows a "/" if it is there in several ways.
LOSSES = {
    "aldr": Loss("scores", aldr, labels=True, signed=True),
    "aldr/softplus": Loss("scores", partial(aldr, scores="softplus"), labels=True, signed=True),
    **{
        f"anyloss/{metric}": Loss("scores", overlap("anyloss", metric=metric), couples=True, labels=True)
        for metric in ("fbeta", "accuracy", "gmean", "balanced_accuracy")
    },
    "attention_transfer": Loss("maps", lambda s, t, y: losses.attention_transfer(s, t), divergence=True),
    "balanced_kl": Loss("logits", lambda s, t, y: losses.balanced_kl(s, t, delta=2.0), divergence=True),
    "binary_cross_entropy": Loss("scores", lambda s, t, y: losses.binary_cross_entropy(s, yes(t))),
    "certainty": Loss("logits", lambda s, t, y: losses.certainty(s, y), couples=True, labels=True),
    "cmi": Loss("logits", cmi, labels=True),
    "comp_sum/0": Loss("logits", lambda s, t, y: losses.comp_sum(s, y, tau=0.0), labels=True),
    "comp_sum/0.5": Loss("logits", lambda s, t, y: losses.comp_sum(s, y, tau=0.5), labels=True),
    "comp_sum/1.7": Loss("logits", lambda s, t, y: losses.comp_sum(s, y, tau=1.7), labels=True),
    "comp_sum/soft": Loss("logits", lambda s, t, y: losses.comp_sum(s, chances(t), tau=1.7)),
    "contrast": Loss("features", lambda s, t, y: losses.contrast(s, noise=7)),
    "correctness_aware": Loss("logits", lambda s, t, y: losses.correctness_aware(s, y), couples=True, labels=True),
    "correctness_aware/plain": Loss(
        "logits", lambda s, t, y: losses.correctness_aware(s, y, balance=False), labels=True
    ),
    "cross_entropy": Loss("logits", lambda s, t, y: losses.cross_entropy(s, y), labels=True),
    "cross_entropy/soft": Loss("logits", lambda s, t, y: losses.cross_entropy(s, chances(t))),
    "cross_entropy/hl_gauss": Loss("logits", binned("hl_gauss")),
    "cross_entropy/two_hot": Loss("logits", binned("two_hot")),
    "dco/1": Loss("logits", lambda s, t, y: losses.dco(-losses.cross_entropy(s, y), n=1), labels=True),
    "dco/64": Loss("logits", lambda s, t, y: losses.dco(-losses.cross_entropy(s, y), n=64), labels=True),
    "dice": Loss("logits", lambda s, t, y: losses.dice(s, y), labels=True),
    "dice/paper": Loss("logits", lambda s, t, y: losses.dice(s, y, alpha=1.0, smooth=1e-4), labels=True),
    "dice/soft": Loss("logits", lambda s, t, y: losses.dice(s, chances(t))),
    "dice/sum": Loss("logits", lambda s, t, y: losses.dice(s, y, square=False), couples=True, labels=True),
    "dice_set": Loss("scores", overlap("dice_set"), couples=True, labels=True),
    "dice_set/ohem": Loss("scores", overlap("dice_set", ohem=2.5, square=False), couples=True, labels=True),
    "dist": Loss("logits", lambda s, t, y: losses.dist(s, t), couples=True),
    "dkd": Loss("logits", lambda s, t, y: losses.dkd(s, t, y), divergence=True, labels=True),
    "emo": Loss("logits", emo, labels=True, moving=True),
    "emo/emo2": Loss("logits", partial(emo, variant="emo2"), labels=True, moving=True),
    "joint_cross_entropy": Loss("logits", joint, labels=True),
    "jsd": Loss("logits", lambda s, t, y: losses.jsd(s, t, beta=0.3, tau=2.0), divergence=True),
    "kl": Loss("logits", lambda s, t, y: losses.kl(s, t), divergence=True),
    "kl/tau": Loss("logits", lambda s, t, y: losses.kl(s, t, tau=4.0), divergence=True),
    "ldr": Loss("scores", lambda s, t, y: losses.ldr(s, y), labels=True, signed=True),
    "ldr/l1": Loss("scores", lambda s, t, y: losses.ldr(s, y, lam=0.1, scores="l1"), labels=True, signed=True),
    "margin_shift": Loss("logits", lambda s, t, y: losses.margin_shift(s, t, y), divergence=True, labels=True),
    "masked_kl": Loss("logits", lambda s, t, y: losses.masked_kl(s, t, torch.arange(s.shape[1]) != 1), signed=True),
    "masked_mse": Loss(
        "features", lambda s, t, y: losses.masked_mse(s, t, torch.ones_like(t, dtype=torch.bool)), divergence=True
    ),
    "mse": Loss("features", lambda s, t, y: losses.mse(s, t), divergence=True),
    "mse/maps": Loss("maps", lambda s, t, y: losses.mse(s, t), divergence=True),
    "noisy_kl": Loss("logits", lambda s, t, y: losses.noisy_kl(t, torch.stack([s, s]), tau=1.0), divergence=True),
    "nst": Loss("maps", lambda s, t, y: losses.nst(s, t), divergence=True),
    "nt_xent": Loss("features", lambda s, t, y: losses.nt_xent(s, t), couples=True),
    "ofa": Loss("logits", lambda s, t, y: losses.ofa(s, t, y, eps=1.5, tau=2.0), labels=True),
    "ofa/paper": Loss("logits", lambda s, t, y: losses.ofa(s, t, y, eps=1.5, variant="paper"), labels=True),
    "plackett_luce": Loss("logits", lambda s, t, y: losses.plackett_luce(s, chances(t))),
    "pld": Loss("logits", lambda s, t, y: losses.pld(s, t, y), labels=True),
    "reverse_kl": Loss("logits", lambda s, t, y: losses.reverse_kl(s, t), divergence=True),
    "rkd_angle": Loss("features", lambda s, t, y: losses.rkd_angle(s, t), divergence=True, couples=True),
    "rkd_distance": Loss("features", lambda s, t, y: losses.rkd_distance(s, t), divergence=True, couples=True),
    "sinkhorn_distance": Loss("logits", lambda s, t, y: losses.sinkhorn_distance(s, t), couples=True),
    "skew_kl": Loss("logits", lambda s, t, y: losses.skew_kl(s, t, skew=0.1), divergence=True),
    "skew_reverse_kl": Loss("logits", lambda s, t, y: losses.skew_reverse_kl(s, t, skew=0.1), divergence=True),
    "smooth_adv_comp_sum": Loss("logits", lambda s, t, y: losses.smooth_adv_comp_sum(s, t, y, rho=0.5), labels=True),
    "symmetric_kl": Loss("logits", lambda s, t, y: losses.symmetric_kl(s, t), divergence=True),
    "symmetric_kl/0": Loss("logits", lambda s, t, y: losses.symmetric_kl(s, t, eps=0.0), divergence=True),
    "taid": Loss("logits", lambda s, t, y: losses.taid(s, t, t=0.4), moving=True),
    "topk_kl": Loss("logits", lambda s, t, y: losses.topk_kl(s, *chances(t).topk(2), student_tau=0.3, teacher_tau=0.3)),
    "topk_kl/linear": Loss("logits", lambda s, t, y: losses.topk_kl(s, *chances(t).topk(2), normalise="linear")),
    "topk_kl/none": Loss("logits", lambda s, t, y: losses.topk_kl(s, *chances(t).topk(2), normalise="none")),
    "total_variation": Loss("logits", lambda s, t, y: losses.total_variation(s, t), divergence=True),
    "tri_bce": Loss("logits", lambda s, t, y: losses.tri_bce(torch.stack([s, t, s / 2]), y), couples=True, labels=True),
    "tri_bce/binary": Loss("scores", lambda s, t, y: losses.tri_bce(s[:, :2].T, yes(t[:, 0])), couples=True),
    "uld": Loss("logits", lambda s, t, y: losses.uld(s, t), divergence=True, jumps=True),
    "uld/fewer": Loss("logits", lambda s, t, y: losses.uld(s, t[:, 1:], tau=2.0), jumps=True),
}

#: Public, but not losses of rows: each has its tests beside those of its file.
OTHERS = {
    "Chunked",
    "Linear",
    "Vote",
    "adaptive_noise",
    "aggregate",
    "aldr_lambda",
    "answers",
    "attention_map",
    "bias_weight",
    "centroids",
    "chunk_divergence",
    "chunk_log_probabilities",
    "class_mass",
    "dco_factor",
    "eisl",
    "expected",
    "feature_variance",
    "hl_gauss",
    "linear_cross_entropy",
    "linear_divergence",
    "mapped",
    "merged_chunks",
    "mid_points",
    "mixture_jeffreys",
    "mixture_kl",
    "pearson",
    "redi",
    "sampled_scores",
    "sequence_nll",
    "signal_to_noise",
    "sinkhorn",
    "standardise",
    "two_hot",
    "vote",
}
