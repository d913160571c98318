"""Losses of pairs of texts, called as the parity cases ask for them."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.feature import mse

Case = dict[str, Any]


def trans_encoder_case(inputs: Case, params: Case) -> dict[str, Tensor]:
    """As PairScores has them."""
    logit, cosine = inputs["cross_logit"][:, None], F.cosine_similarity(inputs["emb_a"], inputs["emb_b"])[:, None]
    return {
        "bi_to_cross": binary_cross_entropy(logit, inputs["bi_scores"].mean(0)[:, None]).mean(),
        "cross_to_bi": mse(cosine, logit.detach().sigmoid()).mean(),
    }


ADAPTERS = {"trans-encoder": trans_encoder_case}
