"""Which texts to train on: near a task, from which domain, seen by a model before.

shares = domain_shares(student_ce, teacher_ce)              # where the student is behind its teacher
nearest = prune(zip_fit(pool, task).mean(1), 0.1)           # ids, as of any scores: `limbeck.data.select`
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.errors import DataError, SettingError, ShapeError


def zip_fit(source: Sequence[str], target: Sequence[str], *, level: int = 9) -> Float[Tensor, "n m"]:
    """How alike texts are to gzip: 1 - (C(a + b) - min(C(a), C(b))) / max(C(a), C(b)) of each source a and target b,
    C the compressed bytes of UTF-8 (Obbad et al. 2024, ZIP-FIT, arXiv:2410.18194, and the authors'
    zipfit.py). A source's score is its mean over the targets.

    Ranks alone mean something: gzip's 18 bytes of header make equal short texts less than 1, and a source much longer
    than the targets scores low. It compresses n m + n + m texts: take a sample of the targets. level: 1 to 9; the
    authors' package has 0, at which gzip only stores, and other compressors: lz4, which it takes unasked, zstd, brotli.
    """
    if not 1 <= level <= 9:
        raise SettingError(f"gzip compresses at levels 1 to 9; got level={level}")
    if not source or not target:
        raise DataError(f"both sides need a text; got {len(source)} sources and {len(target)} targets")
    a, b = ([text.encode() for text in texts] for texts in (source, target))
    alone_a, alone_b = (torch.tensor([_size(text, level) for text in texts], dtype=torch.double) for texts in (a, b))
    both = torch.tensor([[_size(first + second, level) for second in b] for first in a], dtype=torch.double)
    least, most = torch.minimum(alone_a[:, None], alone_b), torch.maximum(alone_a[:, None], alone_b)
    return 1 - (both - least) / most


def _size(text: bytes, level: int) -> int:
    return len(gzip.compress(text, compresslevel=level))


def domain_shares(
    student_ce: Float[Tensor, " domains"],
    teacher_ce: Float[Tensor, " domains"],
    before: Float[Tensor, " domains"] | None = None,
    *,
    alpha: float = 0.5,
) -> Float[Tensor, " domains"]:
    """The share of each domain in the next steps, in proportion to exp(student's perplexity / teacher's) (Liu et al.
    2024, DDK, arXiv:2407.16154, eq. 1 and 2). They sum to 1.

    student_ce, teacher_ce: mean cross-entropy per token in nats on held-out texts of each domain, of one tokenizer.
    before: the shares until now, which multiply; None: at the start. alpha: in [0, 1]; later shares are at least
    (1 - alpha) / domains.
    """
    if not 0 <= alpha <= 1:
        raise SettingError(f"alpha is in [0, 1]; got {alpha}")
    if student_ce.shape != teacher_ce.shape or (before is not None and before.shape != student_ce.shape):
        came = [tuple(each.shape) for each in (student_ce, teacher_ce, before) if each is not None]
        raise ShapeError(f"one number per domain each; got {came}")
    ratio = (student_ce - teacher_ce).exp()
    if before is None:
        return ratio.softmax(-1)
    return alpha * (before.log() + ratio).softmax(-1) + (1 - alpha) / len(ratio)


# --- was a text in the training data? --------------------------------------------------------------------------------


def dc_pdd(
    log_p: Float[Tensor, "b n"], ids: Int[Tensor, "b n"], counts: Int[Tensor, " v"], *, clip: float = 0.01
) -> Float[Tensor, " b"]:
    """Mean of min(clip, -p log f) over the first occurrence of each token in a text: high if the text was in the
    model's training data (Zhang et al. 2024, DC-PDD, EMNLP, and the authors' com_det_sco.py).

    log_p: of the tokens. ids: the tokens, UNLABELLED where there is none. counts: how often each token of the
    vocabulary is in a large unrelated corpus, of which f is the share, (count + 1) / (all + v). clip: far below most
    of the terms, so that the score is nearly a count of tokens above it. NaN for a text without tokens.
    """
    if ids.max() >= len(counts):
        raise DataError(f"token {int(ids.max())} and counts of a vocabulary of {len(counts)}: give one for each token")
    if clip <= 0:
        raise SettingError(f"clip is positive; got {clip}")
    ordered, order = ids.sort(dim=-1, stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = torch.zeros_like(starts).scatter(-1, order, starts) & (ids != UNLABELLED)
    frequency = (counts.to(log_p.dtype) + 1) / (counts.sum() + len(counts))
    terms = (-log_p.exp() * frequency.log()[ids.clamp(min=0)]).clamp(max=clip)
    return torch.where(first, terms, 0.0).sum(-1) / first.sum(-1)


def min_k(log_p: Float[Tensor, "b n"], ids: Int[Tensor, "b n"], *, share: float = 0.2) -> Float[Tensor, " b"]:
    """Mean of the lowest log-probabilities of a text's tokens, that share of them (rounded down, at least one): high if
    the text was in the training data (Shi et al. 2024, Min-K% Prob, arXiv:2310.16789). share=1: the mean of all.

    ids: the tokens, UNLABELLED where there is none. NaN for a text without tokens.
    """
    if not 0 < share <= 1:
        raise SettingError(f"share is in (0, 1]; got {share}")
    there = ids != UNLABELLED
    number = (there.sum(-1) * share).long().clamp(min=1).minimum(there.sum(-1))
    lowest = log_p.masked_fill(~there, torch.inf).sort(-1).values
    taken = torch.arange(log_p.shape[-1], device=log_p.device) < number[:, None]
    return torch.where(taken, lowest, 0.0).sum(-1) / number
