"""Parity of methods that transform targets or weigh examples: the authors' names and reduction, no mathematics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.logit import cross_entropy, kl
from limbeck.selection import Level, llkd_weights
from limbeck.targets import recover


def ferkd_fkd(inputs: dict[str, Any], params: dict[str, Any]) -> Tensor:
    kind = params["kind"]
    k = 1 if kind in ("hard", "smoothing") else int(kind.rpartition("_k")[2]) if "_k" in kind else None
    value, index = (inputs[name][:, :k] for name in ("value", "index"))
    rest = "drop" if kind in ("hard", "marginal_renorm") else "spread"
    return cross_entropy(inputs["student"], recover(value, index, params["n_classes"], rest=rest)).mean()


def dho(inputs: dict[str, Any], params: dict[str, Any]) -> Tensor:
    tau, weight = params["temperature"], params["ce_weight"]
    ce = cross_entropy(inputs["student_ce"], inputs["target"]).mean()
    labelled = kl(inputs["student_kd"], inputs["teacher"], tau=tau).mean()
    unlabelled = kl(inputs["student_kd_unlabelled"], inputs["teacher_unlabelled"], tau=tau).mean()
    return weight * ce + (1 - weight) * (labelled + unlabelled)


def llkd(inputs: dict[str, Any], params: dict[str, Any]) -> Tensor:
    weight, selected, label = llkd_parts(inputs, params)[:3]
    return (weight * cross_entropy(inputs["student"], label)).sum() / selected.sum().clamp(min=1)


def llkd_parts(inputs: dict[str, Any], params: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Level, Level]:
    """Weights, selection, pseudo-labels and the state after the step."""
    confidence, label = inputs["teacher_probs"].max(-1)
    student = inputs["student"].detach()
    uncertainty = cross_entropy(student, student.softmax(-1))
    levels = [
        Level(*(torch.as_tensor(inputs["state"][f"{name}{side}"], dtype=torch.float64) for name in "gl"))
        for side in "TS"
    ]
    sure, unsure = (
        level.after(score, label, params["ema"]) for level, score in zip(levels, (confidence, uncertainty), strict=True)
    )
    return *llkd_weights(confidence, uncertainty, label, sure=sure, unsure=unsure), label, sure, unsure


ADAPTERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "dho": dho,
    "ferkd-fkd": ferkd_fkd,
    "llkd": llkd,
}
