"""Methods that withstand wrong labels or attacked inputs."""

from __future__ import annotations

from limbeck.blocks.logit import KL
from limbeck.blocks.robust import ALDR, LDR, AdvCompSum, CompSum
from limbeck.blocks.targets import HotCE
from limbeck.losses.robust import Scores
from limbeck.objective import Objective
from limbeck.registry import method


@method(paper="Mao et al. 2023, arXiv:2304.07288", needs=("labels",), example={"tau": 1.7})
def comp_sum(*, tau: float) -> Objective:
    """From cross-entropy to the absolute error, by tau.

    loss = (q_y^(tau - 1) - 1) / (1 - tau)

    tau = 1 is cross-entropy, tau = 2 the absolute error, which forgives wrong labels.
    """
    return CompSum(tau)


@method(paper="Mao et al. 2023, arXiv:2304.07288", needs=("labels",), example={"radius": 0.1})
def comp_sum_adv(*, radius: float, tau: float = 1.0, rho: float = 1.0, nu: float = 1.0, steps: int = 10) -> Objective:
    """Comp-sum loss that withstands attacked inputs.

    loss = comp_sum(z / rho) + nu max |d(x') - d(x)| over inputs x' no further than radius from x,  d_k = z_y - z_k

    radius: largest change of an input's number (8/255 for CIFAR-10). nu is tuned in practice; the other numbers are our
    reading of settings that we could not look up.
    """
    return AdvCompSum(radius, tau, rho, nu, steps)


@method(paper="Zhu et al. 2023, ICML (LDR)", needs=("labels",))
def ldr(*, lam: float = 10.0, margin: float = 0.1) -> Objective:
    """Train for the worst distribution over the classes.

    loss = lam log mean_k exp(d_k / lam),  d_k = s_k - s_y + margin [k != y],  s: softplus(z) / mean softplus(z)

    Of those near the uniform one; robust to wrong labels for a large lam. lam: the authors search 0.1, 1 and 10; their
    code ships 10.
    """
    return LDR(lam, margin)


@method(paper="Zhu et al. 2023, ICML (LDR)", needs=("labels",))
def aldr(*, lam0: float = 10.0, alpha: float = 2.0, margin: float = 0.1, scores: Scores = "l1") -> Objective:
    """As ldr, with a lam for each example.

    loss = lam log mean_k exp(d_k / lam) - alpha log(c) / (2 lam0) (lam - lam0)^2,  d_k = s_k - s_y + margin [k != y]
    lam = lam0 (1 - KL(softmax(s / lam') || u) / (alpha log(c))),  lam': an epoch ago,  u: uniform over c classes

    lam falls as the student gets sure of the example. scores: "l1" divides the logits by their mean size, "softplus"
    takes softplus first (the authors, on CIFAR-100).
    """
    return ALDR(lam0, alpha, margin, scores)


@method(paper="Papernot et al. 2016, arXiv:1511.04508", needs=("labels",), example={"tau": 20.0})
def hot_labels(*, tau: float) -> Objective:
    """Learn the labels at a high temperature.

    loss = CE(y, q_tau)

    It makes the teacher of defensive_distillation.
    """
    return HotCE(tau)


@method(paper="Papernot et al. 2016, arXiv:1511.04508", needs=("teacher",), example={"tau": 20.0})
def defensive_distillation(*, tau: float) -> Objective:
    """Match at a high temperature, so that gradients vanish.

    loss = KL(p_tau || q_tau)

    The teacher was trained at that temperature too; the student is used without it. Judge it by `attacks`: this stops
    gradient-sign attacks on the cross-entropy, not those on logits. The objective is cross-entropy at tau, here less
    the teacher's entropy, without the factor tau**2: it wants a larger learning rate.
    """
    return tau**-2 * KL(tau)
