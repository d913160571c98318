"""Pure functions: tensors in, one number per example out. Settings are keyword-only."""

from limbeck.losses.chunked import Chunked
from limbeck.losses.contrastive import contrast, sampled_scores
from limbeck.losses.feature import attention_map, attention_transfer, mse
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.relation import rkd_angle, rkd_distance

__all__ = [
    "Chunked",
    "attention_map",
    "attention_transfer",
    "contrast",
    "cross_entropy",
    "kl",
    "mse",
    "rkd_angle",
    "rkd_distance",
    "sampled_scores",
]
