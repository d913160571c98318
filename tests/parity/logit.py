"""Parity of the losses on class distributions: names and the authors' reductions, no mathematics."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from limbeck.losses.correlation import dist
from limbeck.losses.decoupled import dkd, ofa
from limbeck.losses.divergence import centroids, class_mass, cmi, taid, topk_kl
from limbeck.losses.joint import aggregate, joint_cross_entropy
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.ranking import pld
from limbeck.losses.transport import sinkhorn_distance
from limbeck.schedules import Clock, Ramp
from limbeck.targets import mix, one_hot


def adapt_sinkd(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    rows = sinkhorn_distance(i["student"], i["teacher"], tau=p["temperature"], eps=p["epsilon"], iters=p["n_iters"])
    return p["weight"] * rows.sum()


def adapt_pld(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    return pld(i["student"], i["teacher"], i["target"], tau=p["temperature"]).mean()


def adapt_mcmi(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    q = centroids(class_mass(i["pool"], i["pool_target"]))
    rows = cross_entropy(i["student"], i["target"]) + p["cmi_weight"] * cmi(i["student"], i["target"], q)
    return rows.mean()


def adapt_ofa_kd(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    return ofa(i["student"], i["teacher"], i["target"], eps=p["eps"], tau=p["temperature"]).mean()


def adapt_taid(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    rows = taid(i["student"], i["teacher"], t=p["t"])
    return (rows * i["mask"]).sum() / i["mask"].sum()


def adapt_ps_kd(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    alpha = Ramp(0.0, p["alpha_T"], by="epoch")(Clock(0, 1, p["epoch"], p["epochs"]))
    truth = one_hot(i["target"], i["student"].shape[1], i["student"].dtype)
    return cross_entropy(i["student"], mix(truth, i["past_probs"], alpha)).mean()


def adapt_first(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    rows = topk_kl(
        i["student"],
        i["teacher_top_prob"],
        i["teacher_top_ids"],
        normalise=p["normalization"],
        student_tau=p["student_temp"],
        teacher_tau=p["teacher_temp"],
        eps=p["eps"],
    )
    return (rows * i["mask"]).sum() / len(rows)


def adapt_sla_sd(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    joint = i["joint"].unflatten(0, (-1, p["n_transforms"]))
    plain = i["single"][:: p["n_transforms"]]
    labels = joint_cross_entropy(joint, i["target"]) + cross_entropy(plain, i["target"])
    return (labels + kl(plain, aggregate(joint).detach(), tau=p["temperature"])).mean()


def adapt_dkd(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    tau = p["temperature"]
    return dkd(i["student"], i["teacher"], i["target"], alpha=p["alpha"], beta=p["beta"], tau=tau).mean()


def adapt_dist(i: dict[str, Any], p: dict[str, Any]) -> Tensor:
    return dist(i["student"], i["teacher"], beta=p["beta"], gamma=p["gamma"], tau=p["temperature"]).mean()


ADAPTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Tensor]] = {
    "sinkd": adapt_sinkd,
    "pld": adapt_pld,
    "mcmi": adapt_mcmi,
    "ofa-kd": adapt_ofa_kd,
    "taid": adapt_taid,
    "ps-kd": adapt_ps_kd,
    "first": adapt_first,
    "sla-sd": adapt_sla_sd,
    "dkd": adapt_dkd,
    "dist": adapt_dist,
}
