"""Losses of token sequences, called as the parity cases ask for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.data import UNLABELLED
from limbeck.losses.contrastive import nt_xent
from limbeck.losses.divergence import masked_kl
from limbeck.losses.feature import nst
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.noise import noisy_kl
from limbeck.losses.sequence import (
    answers,
    certainty,
    eisl,
    emo,
    mixture_jeffreys,
    mixture_kl,
    redi,
    sequence_nll,
    vote,
)

Case = dict[str, Any]


def labels(target: Tensor, ignored: int = -100) -> Tensor:
    return target.masked_fill(target == ignored, UNLABELLED)


def masked(target: Tensor, mask: Tensor) -> Tensor:
    return target.masked_fill(~mask, UNLABELLED)


def mean(rows: Tensor, mask: Tensor) -> Tensor:
    return rows[mask.bool()].sum() / mask.sum().clamp(min=1)


def emo_case(inputs: Case, params: Case) -> Tensor:
    y = labels(inputs["target"], params.get("ignore_index", -100))
    limit = params.get("clamp")
    rows = emo(inputs["student"], y, inputs["cost_embedding"], variant=params["mode"], limit=limit)
    return mean(rows, y != UNLABELLED)


def eisl_case(inputs: Case, params: Case) -> Tensor:
    student, target = inputs["student"], inputs["target"]
    noise = [torch.as_tensor(each, dtype=student.dtype) for each in inputs["gumbel_noise"]]
    rows = eisl(student, target, ngrams=params["ngrams"], tau=params["tau"], noise=noise)
    return params["ngram_factor"] * rows.mean() + params["ce_factor"] * cross_entropy(student, target).mean()


def redi_case(inputs: Case, params: Case) -> Tensor:
    settings = {"alpha": params["alpha"], "c": params["chosen_coef"], "gamma": params["neg_weighting_gamma"] or 0.0}
    sides = []
    for side in ("chosen", "rejected"):
        log_p = inputs[f"{side}_logps"]
        right = torch.full(log_p.shape, side == "chosen")
        sides.append(redi(log_p, inputs[f"{side}_lengths"], right, **settings))
    return torch.stack(sides).sum(0)


def f2c_case(inputs: Case, params: Case) -> Tensor:
    voted = vote(
        inputs["label_ll"][None],
        tau=params["tau"],
        top_k=params["top_k"],
        low=params["weight_min"],
        high=params["weight_max"],
        temperature=params["weight_temp"],
    )
    logits, y = answers(inputs["student"][None], labels(inputs["labels"])[None])
    known = y != UNLABELLED
    panel, students = (ways[..., None] & known for ways in (voted.panel, voted.students))
    ce = voted.agreed * sequence_nll(logits, y).mean(1)
    jeffreys, forward = mixture_jeffreys(logits, panel), mixture_kl(logits, panel, students)
    return (params["cce_weight"] * ce + params["beta_jsd"] * jeffreys + voted.weight * forward).squeeze(0)


def dparallel_case(inputs: Case, params: Case) -> Tensor:
    total = []
    for which in ("", "_complement"):
        mask = inputs[f"mask{which}"].flatten()
        logits, y = inputs[f"student{which}"].flatten(0, 1), masked(inputs["target"].flatten(), mask)
        sure = certainty(logits, y, tau=params["temperature"])
        total.append(mean(cross_entropy(logits, y), mask) + params["entropy_weight"] * mean(sure, mask))
    return torch.stack(total).sum()


def siu_case(inputs: Case, params: Case) -> Tensor:
    return mean(masked_kl(inputs["student"], inputs["teacher"], inputs["vocab_mask"].bool()), inputs["token_mask"])


def noisefit_case(inputs: Case, params: Case) -> Tensor:
    clean, first, second = (inputs[name] for name in ("clean", "student", "noisy2"))
    y = labels(inputs["labels"])
    mask, alpha = y != UNLABELLED, params["hybrid_alpha"]
    ce = mean(cross_entropy(clean[:, :-1], y[:, 1:]), mask[:, 1:])
    soft = mean(noisy_kl(clean, torch.stack([first, second]), tau=params["temperature"]), mask)
    return alpha * ce + (1 - alpha) * soft + params["lambda_consistency"] * mean(kl(first, second), mask)


def vidlankd_case(inputs: Case, params: Case) -> Tensor:
    return nst(inputs["student"], inputs["teacher"], constant=False).mean()


def vidlankd_contrastive(inputs: Case, params: Case) -> Tensor:
    """The part of the case that is beside its output; the authors divide by 2 b again."""
    rows = nt_xent(inputs["z_student"], inputs["z_teacher"], tau=params["contrastive_temperature"])
    return rows.mean() / (2 * len(rows))


ADAPTERS: dict[str, Callable[[Case, Case], Tensor]] = {
    "emo": emo_case,
    "eisl": eisl_case,
    "redi": redi_case,
    "f2c": f2c_case,
    "dparallel": dparallel_case,
    "siu": siu_case,
    "noisefit": noisefit_case,
    "vidlankd": vidlankd_case,
}
