"""Objectives that compare class distributions otherwise than by KL(teacher || student)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from limbeck.errors import SettingError
from limbeck.losses.divergence import (
    balanced_kl,
    jsd,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    topk_kl,
    total_variation,
)
from limbeck.losses.inputs import probabilities, wide
from limbeck.losses.logit import cross_entropy, kl
from limbeck.objective import Objective, Term, Terms
from limbeck.step import Step
from limbeck.targets import mix, one_hot
from limbeck.tiles import compared


@dataclass(frozen=True)
class ReverseKL(Objective):
    """tau**2 KL(student || teacher), over all examples."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        return {"reverse_kl": compared(reverse_kl, step.student("x"), step.teacher("x"), tau=self.tau)}


@dataclass(frozen=True)
class SkewKL(Objective):
    """tau**2 KL(p || skew p + (1 - skew) q), p the teacher's and q the student's distribution, or with `reverse`
    tau**2 KL(q || skew q + (1 - skew) p) (Ko et al. 2024, DistiLLM; 0.1 is theirs)."""

    skew: float = 0.1
    tau: float = 1.0
    reverse: bool = False

    def loss(self, step: Step, state: Any) -> Terms:
        loss = skew_reverse_kl if self.reverse else skew_kl
        return {"skew_kl": compared(loss, step.student("x"), step.teacher("x"), skew=self.skew, tau=self.tau)}


@dataclass(frozen=True)
class JSD(Objective):
    """Generalised Jensen-Shannon divergence; beta is the teacher's share of the mixture (Agarwal et al. 2024)."""

    beta: float = 0.5
    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        return {"jsd": compared(jsd, step.student("x"), step.teacher("x"), beta=self.beta, tau=self.tau)}


@dataclass(frozen=True)
class TotalVariation(Objective):
    """Half the absolute difference of two distributions, over all examples (Wen et al. 2023)."""

    tau: float = 1.0

    def loss(self, step: Step, state: Any) -> Terms:
        return {"tv": compared(total_variation, step.student("x"), step.teacher("x"), tau=self.tau)}


@dataclass(frozen=True)
class SmoothCE(Objective):
    """Cross-entropy with (1 - smoothing) of the label and smoothing of the uniform distribution, the label's class
    among them, over the labelled examples (Szegedy et al. 2016, section 7)."""

    smoothing: float = 0.1

    def loss(self, step: Step, state: Any) -> Terms:
        logits = wide(step.student("x").logits)
        truth = one_hot(step.y, logits.shape[-1], logits.dtype)
        target = mix(truth, truth.mean(-1, keepdim=True), self.smoothing)  # the mean: uniform, or 0 without a label
        return {"ce": Term(cross_entropy(logits, target), where="labelled")}


@dataclass(frozen=True)
class TopKL(Objective):
    """KL(teacher || student) over the k classes that the teacher finds most probable, all that a record need hold
    (Shum et al. 2024, FIRST); see `topk_kl`, which says too why a student that is not good yet needs CE beside it.

    normalise: "softmax" or "linear", the authors', or "none". student_tau, teacher_tau: temperatures of the former.
    smoothing: share of the uniform distribution over the k classes in the teacher's, the paper's other recalibration.
    """

    k: int = 5
    normalise: Literal["softmax", "linear", "none"] = "softmax"
    student_tau: float = 1.0
    teacher_tau: float = 1.0
    smoothing: float = 0.0

    def loss(self, step: Step, state: Any) -> Terms:
        said = probabilities(step.teacher("x").logits)
        p, index = said.topk(min(self.k, said.shape[-1]))
        p = mix(p, p.new_tensor(1 / p.shape[-1]), self.smoothing)
        taus = {"student_tau": self.student_tau, "teacher_tau": self.teacher_tau}
        return {"top_kl": topk_kl(step.student("x").logits, p, index, normalise=self.normalise, **taus)}


@dataclass(frozen=True)
class BalancedPeers(Objective):
    """A small and a large network, the run's two students in this order, learn from the labels and from each other
    (Amara et al. 2022, BD-KD).

    The small one: `balanced_kl`, in which an example counts `delta` times the KL that mends the difference of the two
    entropies. The large one: tau**2 KL(small || large), its own distribution behind the bar; with `mirrored`
    tau**2 KL(large || small). What they learn from is without gradient.

    No code could be reached: delta's place, hard switch and both readings are the catalogue's inferences.
    """

    delta: float
    tau: float
    mirrored: bool = False

    def loss(self, step: Step, state: Any) -> Terms:
        if len(step.students) != 2:
            raise SettingError(
                f"a small and a large network learn together, and the run has {len(step.students)} students: "
                f"Run(student=[small, large]), or --student resnet8,resnet20"
            )
        small, large = (student("x").logits for student in step.students)
        back = reverse_kl if self.mirrored else kl
        return {
            "ce/0": Term(cross_entropy(small, step.y), where="labelled"),
            "ce/1": Term(cross_entropy(large, step.y), where="labelled"),
            "balanced/0": balanced_kl(small, large.detach(), delta=self.delta, tau=self.tau),
            "peer/1": back(large, small.detach(), tau=self.tau),
        }
