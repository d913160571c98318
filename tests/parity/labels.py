"""Losses that compare predictions with labels, called as the parity cases ask for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.label import bias_weight, correctness_aware, dco, feature_variance, tri_bce
from limbeck.losses.logit import cross_entropy
from limbeck.losses.overlap import anyloss, dice, dice_set
from limbeck.losses.robust import aldr, aldr_lambda, comp_sum, ldr, smooth_adv_comp_sum
from limbeck.losses.value import hl_gauss, two_hot

Case = dict[str, Any]

SCORES = {"softplus_mean": "softplus", "softplus": "softplus", "l1": "l1"}


def ldr_case(inputs: Case, params: Case) -> Tensor:
    scores = SCORES[params["normalize"]]
    rows = ldr(inputs["student"], inputs["target"], lam=params["lam"], margin=params["margin"], scores=scores)
    return rows.mean()


def aldr_case(inputs: Case, params: Case) -> Tensor:
    shared = {"lam0": params["lam0"], "alpha": params["alpha"], "scores": SCORES[params["normalize"]]}
    lam = aldr_lambda(inputs["student"], inputs["lam_prev"], **shared)
    return aldr(inputs["student"], inputs["target"], lam, margin=params["margin"], **shared).mean()


def dice_case(inputs: Case, params: Case) -> Tensor:
    settings = {name: params[name] for name in ("alpha", "smooth", "square")}
    return dice(inputs["student"], inputs["target"], **settings).mean()


def dice_binary_case(inputs: Case, params: Case) -> Tensor:
    settings = {name: params[name] for name in ("alpha", "smooth", "square")}
    student, target = inputs["student"].flatten(), inputs["target"].flatten().double()
    mask = inputs["mask"].flatten().bool() if "mask" in inputs else None
    return dice_set(student, target, mask=mask, ohem=params.get("ohem_ratio", 0.0), **settings).mean()


def anyloss_case(inputs: Case, params: Case) -> Tensor:
    settings = {name: params[name] for name in ("metric", "beta", "threshold")}
    return anyloss(inputs["student"], inputs["target"], steepness=params["L"], **settings).mean()


def hl_gauss_case(inputs: Case, params: Case) -> Tensor:
    target = hl_gauss(
        inputs["target"],
        low=params["v_min"],
        high=params["v_max"],
        bins=params["num_bins"],
        sigma=params["sigma"],
    )
    return cross_entropy(inputs["student"], target).mean()


def two_hot_case(inputs: Case, params: Case) -> Tensor:
    low, high, bins = params["v_min"], params["v_max"], params["num_bins"]
    return two_hot(inputs["target"], low=low, high=high, bins=bins, slack=1e-5)  # rlax's


def bias_loss_case(inputs: Case, params: Case) -> Tensor:
    variance = feature_variance(inputs["features"])
    lowest = torch.tensor(1e5).to(variance).minimum(variance.min()) if params["normalisation"] == "global" else None
    weights = bias_weight(variance, alpha=params["alpha"], beta=params["beta"], lowest=lowest)
    return (weights * cross_entropy(inputs["student"], inputs["target"])).mean()


def tri_bce_case(inputs: Case, params: Case) -> Tensor:
    branches = torch.stack([inputs["student_d"], inputs["student_s"]])
    return tri_bce(branches, inputs["target"], detach=params.get("detach", False)).mean()


ADAPTERS: dict[str, Callable[[Case, Case], Tensor | dict[str, Tensor]]] = {
    "comp-sum": lambda i, p: comp_sum(i["student"], i["target"], tau=p["tau"]).mean(),
    "comp-sum-adv": lambda i, p: smooth_adv_comp_sum(i["student"], i["student_adv"], i["target"], **p).mean(),
    "ldr": ldr_case,
    "aldr": aldr_case,
    "dice": dice_case,
    "dice-binary": dice_binary_case,
    "anyloss": anyloss_case,
    "anyloss-acc": anyloss_case,
    "anyloss-bacc": anyloss_case,
    "anyloss-gmean": anyloss_case,
    "hl-gauss": hl_gauss_case,
    "two-hot": two_hot_case,
    "ca-calibration": lambda i, p: correctness_aware(i["student"], i["target"], balance=p["balance"]).mean(),
    "bias-loss": bias_loss_case,
    "dco": lambda i, p: dco(i["student"], n=p["n"]),
    "tri-bce": tri_bce_case,
}
