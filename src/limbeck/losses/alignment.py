"""Losses between models whose tokenizers differ: of chunks of text, and of sorted probabilities."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.losses.inputs import wide

#: How two chunk probabilities are compared, see `chunk_divergence`.
Compare = Literal["kl", "ce", "reverse_kl", "limit", "abs", "abs_exp", "renyi", "k2", "k3"]


def chunk_log_probabilities(
    log_p: Float[Tensor, "*s n"], chunk: Int[Tensor, "*s n"], chunks: int
) -> Float[Tensor, "*s c"]:
    """Log-probability of each chunk of text: the sum over its tokens, 0 for a chunk without tokens.

    log_p: of each token given those before it. chunk: the chunk that it is in, -1 for none (`limbeck.align`).
    """
    sums = log_p.new_zeros(*log_p.shape[:-1], chunks + 1)
    sums = sums.scatter_add(-1, torch.where(chunk < 0, chunks, chunk), log_p)
    return sums[..., :chunks].clamp(max=0.0)


def merged_chunks(
    boundary: Float[Tensor, "*s c"], counted: Bool[Tensor, "*s c"], *, threshold: float = 0.1
) -> Int[Tensor, "*s c"]:
    """Numbers of longer chunks, each up to the next chunk after which the teacher expects a new word, -1 where a chunk
    is not counted: elsewhere one tokenizer's cut says something of the text to come (ALM's code, merge_by_space_prob).

    boundary: the teacher's probability that a word ends after the chunk. threshold: what it must exceed.
    """
    ends = (boundary > threshold) & counted
    return torch.where(counted, ends.cumsum(-1) - ends.long(), -1)


def chunk_divergence(
    student: Float[Tensor, "*c"],
    teacher: Float[Tensor, "*c"],
    *,
    compare: Compare = "kl",
    tau: float = 100.0,
    alpha: float = 0.5,
    eps: float = 1e-6,
) -> Float[Tensor, "*c"]:
    """How far the student's log-probability of a chunk is from the teacher's, as a yes-or-no event of probability
    p = exp(log p / tau - eps) (Minixhofer et al. 2025, ALM, arXiv:2503.20083, and the authors' losses.py).

    compare, with p the teacher's and q the student's, a = log p and b = log q:
        "ce": -p b - (1 - p) log(1 - q), the authors' binary_ce. "kl": that less its least value, so that equal chunks
            give 0; the gradient is the same. "reverse_kl": q (b - a) + (1 - q) (log(1 - q) - log(1 - p)).
        "limit": tau times "kl" as tau goes to infinity, a - b + a log(b / a), at tau = 1.
        "abs": |a - b| at tau = 1 without eps. "abs_exp": |p - q|.
        "renyi": Renyi's divergence of order alpha, at tau = 1.
        "k2", "k3": r^2 / 2 and exp(r) - 1 - r, r = (log p - log q) / tau without eps; the latter overflows where the
            student's log-probability is lower by 88 tau.
    eps: keeps log(1 - p) finite. The gradient is about 1 / tau of that at tau = 1.
    """
    if tau <= 0 or eps <= 0:
        raise SettingError(f"tau and eps are positive; got tau={tau}, eps={eps}")
    student, teacher = wide(student), wide(teacher)
    if compare == "abs":
        return (teacher - student).abs()
    if compare in ("k2", "k3"):
        r = (teacher - student) / tau
        return r**2 / 2 if compare == "k2" else r.expm1() - r
    tau = 1.0 if compare in ("limit", "renyi") else tau
    a, b = teacher / tau - eps, student / tau - eps
    if compare == "limit":
        return a - b + a * (b / a).log()
    if compare == "abs_exp":
        return (a.exp() - b.exp()).abs()
    not_a, not_b = _log1mexp(a), _log1mexp(b)
    if compare == "ce":
        return -(a.exp() * b - a.expm1() * not_b)
    if compare == "kl":
        return a.exp() * (a - b) - a.expm1() * (not_a - not_b)
    if compare == "reverse_kl":
        return b.exp() * (b - a) - b.expm1() * (not_b - not_a)
    if compare == "renyi":
        if alpha <= 0 or alpha == 1:
            raise SettingError(f"the order of Renyi's divergence is positive and not 1, where it is kl; got {alpha=}")
        yes, no = alpha * a + (1 - alpha) * b, alpha * not_a + (1 - alpha) * not_b
        return torch.logaddexp(yes, no) / (alpha - 1)
    raise SettingError(f"compare is one of {', '.join(get_args(Compare))}; got {compare!r}")


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, precise at both ends."""
    half = -math.log(2)
    return torch.where(x < half, (-x.clamp(max=half).exp()).log1p(), (-x.expm1()).log())


def uld(student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b v"], *, tau: float = 1.0) -> Float[Tensor, "*b"]:
    """Sum of the absolute differences of the sorted probabilities, the shorter list filled up with zeros; in [0, 2]
    (Boizard et al. 2024, ULD, arXiv:2402.12030): for vocabularies of which nothing is known.

    No factor of tau. Equal rows up to the order of their classes give 0.
    """
    if tau <= 0:
        raise SettingError(f"a temperature is positive; got tau={tau}")
    q, p = ((wide(logits) / tau).softmax(-1).sort(descending=True).values for logits in (student, teacher))
    most = max(q.shape[-1], p.shape[-1])
    q, p = (F.pad(each, (0, most - each.shape[-1])) for each in (q, p))
    return (q - p).abs().sum(-1)


def mapped(teacher: Float[Tensor, "*b v"], index: Int[Tensor, " c"]) -> Float[Tensor, "*b c"]:
    """The teacher's logits in the student's vocabulary: class i gets that of the teacher's class index[i], and -1e4, a
    probability of 0, where that is -1 (`limbeck.align.nearest_pieces`; MinED)."""
    return teacher[..., index.clamp(min=0)].masked_fill(index < 0, -1e4)
