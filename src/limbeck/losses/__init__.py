"""Pure functions: tensors in, one number per example out, in float32 at least. Settings are keyword-only."""

from limbeck.losses.alignment import chunk_divergence, chunk_log_probabilities, mapped, merged_chunks, uld
from limbeck.losses.binary import binary_cross_entropy
from limbeck.losses.chunked import Chunked
from limbeck.losses.contrastive import contrast, nt_xent, sampled_scores
from limbeck.losses.correlation import dist, pearson, standardise
from limbeck.losses.decoupled import dkd, ofa
from limbeck.losses.divergence import (
    balanced_kl,
    centroids,
    class_mass,
    cmi,
    jsd,
    masked_kl,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    taid,
    topk_kl,
    total_variation,
)
from limbeck.losses.feature import attention_map, attention_transfer, masked_mse, mse, nst
from limbeck.losses.joint import aggregate, joint_cross_entropy
from limbeck.losses.label import bias_weight, correctness_aware, dco, dco_factor, feature_variance, tri_bce
from limbeck.losses.linear import Linear, linear_cross_entropy, linear_divergence
from limbeck.losses.logit import cross_entropy, kl
from limbeck.losses.noise import adaptive_noise, noisy_kl, signal_to_noise
from limbeck.losses.overlap import anyloss, dice, dice_set
from limbeck.losses.ranking import plackett_luce, pld
from limbeck.losses.relation import rkd_angle, rkd_distance
from limbeck.losses.robust import aldr, aldr_lambda, comp_sum, ldr, margin_shift, smooth_adv_comp_sum
from limbeck.losses.sequence import (
    Vote,
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
from limbeck.losses.symmetric import symmetric_kl
from limbeck.losses.transport import sinkhorn, sinkhorn_distance
from limbeck.losses.value import expected, hl_gauss, mid_points, two_hot

__all__ = [
    "Chunked",
    "Linear",
    "Vote",
    "adaptive_noise",
    "aggregate",
    "aldr",
    "aldr_lambda",
    "answers",
    "anyloss",
    "attention_map",
    "attention_transfer",
    "balanced_kl",
    "bias_weight",
    "binary_cross_entropy",
    "centroids",
    "certainty",
    "chunk_divergence",
    "chunk_log_probabilities",
    "class_mass",
    "cmi",
    "comp_sum",
    "contrast",
    "correctness_aware",
    "cross_entropy",
    "dco",
    "dco_factor",
    "dice",
    "dice_set",
    "dist",
    "dkd",
    "eisl",
    "emo",
    "expected",
    "feature_variance",
    "hl_gauss",
    "joint_cross_entropy",
    "jsd",
    "kl",
    "ldr",
    "linear_cross_entropy",
    "linear_divergence",
    "mapped",
    "margin_shift",
    "masked_kl",
    "masked_mse",
    "merged_chunks",
    "mid_points",
    "mixture_jeffreys",
    "mixture_kl",
    "mse",
    "noisy_kl",
    "nst",
    "nt_xent",
    "ofa",
    "pearson",
    "plackett_luce",
    "pld",
    "redi",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "sampled_scores",
    "sequence_nll",
    "signal_to_noise",
    "sinkhorn",
    "sinkhorn_distance",
    "skew_kl",
    "skew_reverse_kl",
    "smooth_adv_comp_sum",
    "standardise",
    "symmetric_kl",
    "taid",
    "topk_kl",
    "total_variation",
    "tri_bce",
    "two_hot",
    "uld",
    "vote",
]
