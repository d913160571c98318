"""Losses of token sequences: of a token among all tokens, of whole answers, and of one question asked in several ways.

A label is UNLABELLED where the token is not to be predicted: in the prompt and in padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import probabilities, wide
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.symmetric import symmetric_kl

# --- a token ------------------------------------------------------------------------------------------------------


def emo(
    logits: Float[Tensor, "*b v"],
    y: Int[Tensor, "*b"],
    embeddings: Float[Tensor, "v d"],
    *,
    variant: Literal["emo1", "emo2"] = "emo1",
    limit: float | None = None,
) -> Float[Tensor, "*b"]:
    """Cross-entropy and the earth mover's distance to the label where moving mass between two tokens costs the cosine
    distance of their embeddings, brought to one size token by token (Ren et al. 2024, EMO, and its emo_patch.py).

    "emo1": (r distance + ce) / 2 with the constant r = ce / distance, so its value is the cross-entropy's and only
        the gradient differs. limit: the largest r, None for any; 3 in the authors' continual fine-tuning.
    "emo2": distance + r ce with the constant r = distance / ce: for models that are good already, as its gradient is
        weak far from the label.
    embeddings: constants; those of the head, or of any other model of the same tokens.

    The distance's value is, as there, sum_c q_c (1 - cos(E_c, E_y)) + q_y; its gradient is the distance's own. 0 where
    y is UNLABELLED.
    """
    if variant not in ("emo1", "emo2"):
        raise SettingError(f"a variant is 'emo1' or 'emo2'; got {variant!r}")
    logits, label = wide(logits), y.clamp(min=0)
    with torch.autocast(logits.device.type, enabled=False):
        q = logits.softmax(-1)
        unit = F.normalize(embeddings.detach().to(q), dim=-1)
        near = ((q @ unit) * unit[label]).sum(-1)  # the matrix of all pairs of tokens is never built
    distance = 1 - near + q.detach().gather(-1, label.unsqueeze(-1)).squeeze(-1)
    ce = cross_entropy(logits, y)
    if variant == "emo1":
        ratio = (ce / (distance + 1e-10)).detach()
        value = ((ratio if limit is None else ratio.clamp(max=limit)) * distance + ce) / 2
    else:
        value = (distance / (ce + 1e-10)).detach() * ce + distance
    return value.masked_fill(y == UNLABELLED, 0.0)


def certainty(logits: Float[Tensor, "b v"], y: Int[Tensor, " b"], *, tau: float = 0.5) -> Float[Tensor, " b"]:
    """The entropy in nats of softmax(logits / tau) where the first choice is the label, else 0, times the number of
    labelled rows over that of the right ones: its mean over the labelled rows is the mean entropy of the right ones
    (Chen et al. 2025, dParallel). No factor of tau."""
    if tau <= 0:
        raise SettingError(f"a temperature is positive; got tau={tau}")
    scores = wide(logits).clamp(min=-1e30) / tau  # -inf, in a padded vocabulary, would be nan times nothing
    right = logits.argmax(-1) == y
    share = (y != UNLABELLED).sum() / right.sum().clamp(min=1)
    return torch.where(right, share * cross_entropy(scores, probabilities(scores)), 0.0)


# --- a sequence ---------------------------------------------------------------------------------------------------


def sequence_nll(logits: Float[Tensor, "*b t v"], y: Int[Tensor, "*b t"]) -> Float[Tensor, "*b"]:
    """Mean cross-entropy of a sequence's labelled tokens; 0 without any."""
    return cross_entropy(logits, y).sum(-1) / (y != UNLABELLED).sum(-1).clamp(min=1)


def eisl(
    logits: Float[Tensor, "b t v"],
    y: Int[Tensor, "b t"],
    *,
    ngrams: Sequence[int] = (2, 3, 4),
    tau: float = 1.0,
    noise: Sequence[Float[Tensor, "b _ _"]] | None = None,
) -> Float[Tensor, " b"]:
    """Each n-gram of the target may be said at any place: minus the mean log probability of its tokens at a place,
    weighted over the places by their softmax, the mean over the target's n-grams and over the orders n (Liu et al.
    2022, EISL, and its EISL.py). The gradient also flows through the weights. Wants a model that was trained by
    cross-entropy first.

    ngrams: the orders; n <= 0 is the sequence's length + n. Those that do not fit in are left out, and the whole
        sequence is taken where none is left.
    tau: of the softmax over places. noise: for each order (b, places, n-grams), added before it; the authors draw it
        from Gumbel's distribution. A shorter sequence takes the upper left part.

    Labelled tokens are one piece, and only they count, as places too (the authors' code counts padding). Log
    probabilities below -20 are -20. 0 for a sequence without labels.
    """
    if not ngrams or tau <= 0:
        raise SettingError(f"eisl takes at least one order and tau > 0; got ngrams={ngrams}, tau={tau}")
    log_p = wide(logits).log_softmax(-1).clamp(min=-20.0)
    values = []
    for i, known in enumerate(y != UNLABELLED):  # one by one: each has its own length
        said = log_p[i, known][:, y[i, known]]  # said[p, j]: the target's token j at place p
        length = len(said)
        orders = {k: n if n > 0 else length + n for k, n in enumerate(ngrams)}
        orders = {k: n for k, n in orders.items() if 1 <= n <= length} or {0: length}
        scores = []
        for k, n in orders.items() if length else ():
            m = length - n + 1
            match = torch.stack([said[d : d + m, d : d + m] for d in range(n)]).mean(0)
            shift = 0.0 if noise is None else noise[k][i, :m, :m]
            scores.append((match * ((match + shift) / tau).softmax(0)).sum(0).mean())
        values.append(-torch.stack(scores).mean() if scores else said.sum())
    return torch.stack(values)


def redi(
    log_p: Float[Tensor, " b"],
    length: Float[Tensor, " b"] | Int[Tensor, " b"],
    right: Bool[Tensor, " b"],
    *,
    alpha: float = 0.8,
    c: float = 1.0,
    gamma: float = 0.0,
) -> Float[Tensor, " b"]:
    """-c u of a right answer, alpha u exp(gamma u) of a wrong one, u its log probability per token (Xu et al. 2025,
    REDI, and its dpo2_trainer.py, whose loss of a pair is the sum of both).

    log_p: the log probabilities of whole answers. The loss has no lower bound: what wrong answers lose may drag the
    right ones along, so watch both; a small learning rate and alpha < 1 delay it.
    """
    u = wide(log_p) / length.clamp(min=1)
    return torch.where(right, -c * u, alpha * u * (gamma * u).exp())


# --- one question in several ways ---------------------------------------------------------------------------------


class Vote(NamedTuple):
    """What k ways of asking b questions settle on.

    choice (b,): the most frequent answer. agreed (b,): more than half of the ways gave it. panel (b, k): those whose
    mixture is learned from; students (b, k): those that learn from it; both may be empty. weight (b,): how strongly.
    """

    choice: Int[Tensor, " b"]
    agreed: Bool[Tensor, " b"]
    panel: Bool[Tensor, "b k"]
    students: Bool[Tensor, "b k"]
    weight: Float[Tensor, " b"]


@torch.no_grad()
def vote(
    scores: Float[Tensor, "b k c"],
    *,
    tau: float,
    top_k: int,
    low: float,
    high: float,
    temperature: float,
) -> Vote:
    """The majority of k ways of asking, by their scores of c answers, log probabilities per token (Hejabi et al. 2025,
    F2C, and its flipflop_trainer.py).

    Where all agree with a median margin of tau or more, the panel is all and nobody is a student. Else it is the at
    most `top_k` ways of the majority with the largest margins, one of the majority at least left out, and all others
    are students; a panel of one is none. weight: between low and high by sigmoid(gap / temperature), the gap between
    the panel's and the students' mean score of the choice.
    """
    choices = scores.argmax(-1)
    counts = F.one_hot(choices, scores.shape[-1]).sum(1)
    count, choice = counts.max(-1)
    ways = scores.shape[1]
    majority = choices == choice[:, None]
    own = scores.gather(-1, choice[:, None, None].expand(-1, ways, 1)).squeeze(-1)
    rivals = scores.scatter(-1, choice[:, None, None].expand(-1, ways, 1), -torch.inf).amax(-1)
    margin = (own - rivals).masked_fill(~majority, -torch.inf)
    agreed = 2 * count > ways
    typical = margin.masked_fill(~majority, torch.nan).nanquantile(0.5, dim=1)
    sure = (count == ways) & (typical >= tau)
    size = (count - 1).clamp(max=top_k)
    split = agreed & ~sure & (size >= 2)
    rank = margin.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    panel = (agreed & sure)[:, None] | (split[:, None] & (rank < size[:, None]))
    students = split[:, None] & ~panel
    gap = masked_mean(own, panel) - masked_mean(own, students)
    weight = torch.where(split, low + (high - low) * (gap / temperature).sigmoid(), 0.0)
    return Vote(choice, agreed, panel, students, weight)


def masked_mean(values: Float[Tensor, "b *k"], mask: Bool[Tensor, "b *k"]) -> Tensor:
    """(b,): of each example, over the mask; 0 where it is empty."""
    mask = mask.flatten(1)
    return torch.where(mask, values.flatten(1), 0.0).sum(1) / mask.sum(1).clamp(min=1)


def answers(
    logits: Float[Tensor, "*b t v"], y: Int[Tensor, "*b t"]
) -> tuple[Float[Tensor, "*b t v"], Int[Tensor, "*b t"]]:
    """Each sequence's labelled tokens moved to its front: answers to different prompts then lie side by side."""
    order = (y == UNLABELLED).byte().argsort(dim=-1, stable=True)
    return logits.gather(-2, order.unsqueeze(-1).expand_as(logits)), y.gather(-1, order)


def log_mixture(logits: Float[Tensor, "b k t v"], mask: Bool[Tensor, "b k t"]) -> Float[Tensor, "b t v"]:
    """Logarithm of the mean distribution of those of the k ways that the mask has at a token; 0s where it has none."""
    log_p = wide(logits).log_softmax(-1).masked_fill(~mask.unsqueeze(-1), -torch.inf)
    many = mask.sum(1).unsqueeze(-1)
    return torch.where(many > 0, log_p.logsumexp(1) - many.clamp(min=1).log(), 0.0)


def mixture_jeffreys(logits: Float[Tensor, "b k t v"], mask: Bool[Tensor, "b k t"]) -> Float[Tensor, " b"]:
    """(KL(m || p) + KL(p || m)) / 2 in nats of the distributions p in the mask and their mean m at each token, the mean
    over all of them; gradients flow into both (Hejabi et al. 2025, F2C, which calls it Jensen-Shannon)."""
    mixture = log_mixture(logits, mask).unsqueeze(1).expand_as(logits)
    return masked_mean(symmetric_kl(logits, mixture, eps=0.0), mask)


def mixture_kl(
    logits: Float[Tensor, "b k t v"], panel: Bool[Tensor, "b k t"], students: Bool[Tensor, "b k t"]
) -> Float[Tensor, " b"]:
    """KL(m || p) in nats of the students' distributions p from the panel's mean m, a constant, the mean over all
    students and tokens for which the panel has one (Hejabi et al. 2025, F2C)."""
    mixture = log_mixture(logits, panel).detach().unsqueeze(1).expand_as(logits)
    return masked_mean(kl(logits, mixture), students & panel.any(1, keepdim=True))
