"""Losses that compare class distributions otherwise than by KL(teacher || student)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.data.named import UNLABELLED
from limbeck.errors import SettingError
from limbeck.losses.inputs import comparable, log_probabilities, probabilities, wide
from limbeck.losses.logit import cross_entropy, kl
from limbeck.targets import one_hot


def reverse_kl(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """tau**2 KL(student || teacher) in nats: the student prefers one mode of the teacher to covering all of them
    (Gu et al. 2024, MiniLLM, section 2.1, of one distribution)."""
    student, teacher = comparable(student, teacher, tau=tau)
    return kl(teacher, student, tau=tau)


def mixed(
    q: Float[Tensor, "*b c"], p: Float[Tensor, "*b c"], share: float
) -> tuple[Float[Tensor, "*b c"], Float[Tensor, "*b c"]]:
    """log m - p and log m - q of m = share e^p + (1 - share) e^q, for log probabilities p and q; exactly 0 where they
    are equal. The former stops growing where e^p is nothing beside e^q: it is wanted times e^p."""
    d = (q - p).clamp(max=40.0)
    over_p = ((1 - share) * d.expm1()).log1p()
    return over_p, over_p - d


def skew_kl(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, skew: float, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """tau**2 KL(p || skew p + (1 - skew) q) in nats, p the teacher's and q the student's distribution; skew is in
    (0, 1). At most -tau**2 log(skew), however far apart they are (Ko et al. 2024, DistiLLM, section 3.1)."""
    if not 0 < skew < 1:
        raise SettingError(f"skew is in (0, 1), its limit 0 is kl; got {skew}")
    q, p = log_probabilities(student, teacher, tau=tau)
    return -(p.exp() * mixed(q, p, skew)[0]).sum(-1) * tau**2


def skew_reverse_kl(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, skew: float, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """tau**2 KL(q || skew q + (1 - skew) p): `skew_kl` with the two changed over (Ko et al. 2024, section 3.1)."""
    student, teacher = comparable(student, teacher, tau=tau)
    return skew_kl(teacher, student, skew=skew, tau=tau)


def jsd(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, beta: float = 0.5, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """Generalised Jensen-Shannon divergence, tau**2 (beta KL(p || m) + (1 - beta) KL(q || m)) in nats with
    m = beta p + (1 - beta) q, p the teacher's and q the student's distribution (Agarwal et al. 2024, GKD, section 2).

    beta is in (0, 1). Divided by beta it becomes KL(p || q) as beta goes to 0, and divided by 1 - beta KL(q || p) as
    beta goes to 1.
    """
    if not 0 < beta < 1:
        raise SettingError(f"beta is in (0, 1), its limits are kl and reverse_kl; got {beta}")
    q, p = log_probabilities(student, teacher, tau=tau)
    over_p, over_q = mixed(q, p, beta)
    return -(beta * (p.exp() * over_p).sum(-1) + (1 - beta) * (q.exp() * over_q).sum(-1)) * tau**2


def total_variation(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """Half the sum of the absolute differences of two distributions, in [0, 1] (Wen et al. 2023, f-distill).
    No factor of tau."""
    student, teacher = comparable(student, teacher, tau=tau)
    return ((teacher / tau).softmax(-1) - (student / tau).softmax(-1)).abs().sum(-1) / 2


def balanced_kl(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, delta: float, tau: float = 1.0
) -> Float[Tensor, "*b"]:
    """tau**2 (w KL(p || q) + v KL(q || p)), p the teacher's and q the student's distribution: v = delta where the
    student's entropy is the larger one, w = delta where the teacher's is, else they are 1 (Amara et al. 2022, BD-KD;
    the catalogue's reading of its abstract, but with both weights 1 at equal entropies)."""
    q, p = log_probabilities(student, teacher, tau=tau)
    mass_p, mass_q, d = p.exp(), q.exp(), p - q
    with torch.no_grad():
        gap = (mass_p * p).sum(-1) - (mass_q * q).sum(-1)
    forward, back = (mass_p * d).sum(-1), -(mass_q * d).sum(-1)
    return (torch.where(gap < 0, delta * forward, forward) + torch.where(gap > 0, delta * back, back)) * tau**2


def taid(
    student: Float[Tensor, "*b c"], teacher: Float[Tensor, "*b c"], *, t: float | Float[Tensor, ""]
) -> Float[Tensor, "*b"]:
    """Cross-entropy with softmax((1 - t) student + t teacher), in which the student's logits are constants
    (Shing et al. 2025, TAID, and the authors' taid.py: the target's entropy is not subtracted).

    Logits may be -inf, in a padded vocabulary say: as there, such an entry of the student's counts nothing.
    """
    student, teacher = comparable(student, teacher)
    teacher = teacher.masked_fill(student == -torch.inf, -1e30)
    student, teacher = (logits.clamp(min=-1e30) for logits in (student, teacher))
    return cross_entropy(student, ((1 - t) * student.detach() + t * teacher).softmax(-1))


def topk_kl(
    student: Float[Tensor, "*b c"],
    probabilities: Float[Tensor, "*b k"],
    index: Int[Tensor, "*b k"],
    *,
    normalise: Literal["softmax", "linear", "none"] = "softmax",
    student_tau: float = 1.0,
    teacher_tau: float = 1.0,
    eps: float = 1e-6,
) -> Float[Tensor, "*b"]:
    """KL(teacher || student) in nats over the k classes `index` for which the teacher's probabilities are known
    (Shum et al. 2024, FIRST, and its distill.py).

    The student's probabilities are those of the whole softmax. Then both sides are brought to a sum of 1 by
    "softmax": softmax(p / tau) of the probabilities themselves, which smooths strongly, or
    "linear": (p + eps) / sum(p + eps), without temperature.
    In both nothing keeps the student's mass within the k classes, so a student that is not good yet needs CE beside.
    "none": as they are, the partial cross-entropy -sum p_teacher log p_student, which does keep it there (not FIRST's).
    """
    log_q = wide(student).log_softmax(-1).gather(-1, index)
    p, q = wide(probabilities), log_q.exp()
    if normalise == "none":
        return -(p * log_q).sum(-1)
    if normalise == "linear":
        return kl((q + eps).log(), (p + eps).log())
    if min(student_tau, teacher_tau) <= 0:
        raise SettingError(f"temperatures are positive; got student_tau={student_tau}, teacher_tau={teacher_tau}")
    return kl(q / student_tau, p / teacher_tau)


def masked_kl(
    student: Float[Tensor, "*b c"],
    teacher: Float[Tensor, "*b c"],
    kept: Bool[Tensor, " c"] | Bool[Tensor, "*b c"],
) -> Float[Tensor, "*b"]:
    """The part of KL(teacher || student) in nats that is summed over the classes `kept`, nothing renormalised
    (Li et al. 2024, SIU, of tokens and the names to be unlearnt; no code: the catalogue's equation).

    It may be negative, and equal logits, where it is 0, do not end the learning: the gradient takes mass from the
    classes that are not kept.
    """
    q, p = log_probabilities(student, teacher, tau=1.0)
    return F.kl_div(q, p, reduction="none", log_target=True).masked_fill(~kept, 0.0).sum(-1)


def class_mass(logits: Float[Tensor, "b c"], y: Int[Tensor, " b"]) -> Float[Tensor, "c c"]:
    """Row k: the sum of the distributions of the examples of class k. Sums of several batches may be added."""
    p = probabilities(logits)
    return one_hot(y, p.shape[1], p.dtype).T @ p


def centroids(mass: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """Each class's mean distribution, of a `class_mass`; a class without examples gets the uniform one."""
    total = mass.sum(1, keepdim=True)
    return torch.where(total > 0, mass / total.clamp(min=1e-12), 1 / mass.shape[1])


def cmi(logits: Float[Tensor, "b c"], y: Int[Tensor, " b"], centroids: Float[Tensor, "k c"]) -> Float[Tensor, " b"]:
    """KL(softmax(logits) || centroids[y]) in nats: its mean is the conditional mutual information of input and
    prediction given the class (Ye et al. 2024, MCMI). The gradient flows through both places of
    softmax(logits), not to the centroids. 0 where y is UNLABELLED."""
    target = wide(centroids.detach()[y.clamp(min=0)])
    return kl(target.clamp(min=torch.finfo(target.dtype).tiny).log(), logits).masked_fill(y == UNLABELLED, 0.0)
