"""Scores of texts and shares of domains, called as the parity cases ask for them: no mathematics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.data.domains import dc_pdd, domain_shares, zip_fit

Case = dict[str, Any]


def ddk(inputs: Case, params: Case) -> Tensor:
    shares = [domain_shares(inputs["student_ce"][0], inputs["teacher_ce"])]
    for student_ce in inputs["student_ce"][1:]:
        shares.append(domain_shares(student_ce, inputs["teacher_ce"], shares[-1], alpha=params["alpha"]))
    return torch.stack(shares)


def zip_fit_case(inputs: Case, params: Case) -> dict[str, Tensor]:
    assert params["compressor"] == "gzip"
    similarity = zip_fit(inputs["source"], inputs["target"], level=params["compresslevel"])
    score = similarity.mean(1)
    return {
        "similarity": similarity,
        "score": score,
        "top_k": score.argsort(descending=True, stable=True)[: params["k"]],
    }


def dc_pdd_case(inputs: Case, params: Case) -> Tensor:
    return dc_pdd(inputs["token_logprobs"][None], inputs["token_ids"][None], inputs["reference_counts"], **params)[0]


ADAPTERS: dict[str, Callable[[Case, Case], Tensor | dict[str, Tensor]]] = {
    "ddk": ddk,
    "zip-fit": zip_fit_case,
    "dc-pdd": dc_pdd_case,
}
