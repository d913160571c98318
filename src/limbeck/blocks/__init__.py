"""Objectives to build methods from, one file per family."""

from limbeck.blocks.contrastive import CRD
from limbeck.blocks.feature import AttentionTransfer, Hint
from limbeck.blocks.logit import CE, KL, CommitteeKL
from limbeck.blocks.mutual import Peers
from limbeck.blocks.past import PastSelf
from limbeck.blocks.relation import RKD
from limbeck.blocks.semi import EMAPseudoLabel, PseudoLabel

__all__ = [
    "CE",
    "CRD",
    "KL",
    "RKD",
    "AttentionTransfer",
    "CommitteeKL",
    "EMAPseudoLabel",
    "Hint",
    "PastSelf",
    "Peers",
    "PseudoLabel",
]
