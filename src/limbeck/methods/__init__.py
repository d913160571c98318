"""Published systems as named compositions, one file per family. Defining one registers it."""

from limbeck.methods.committee import committee
from limbeck.methods.contrastive import crd
from limbeck.methods.feature import attention_transfer, fitnet
from limbeck.methods.logit import kd, supervised
from limbeck.methods.mutual import dml
from limbeck.methods.relation import rkd
from limbeck.methods.self_ import ps_kd
from limbeck.methods.semi import ema_pseudo_label, fixmatch

__all__ = [
    "attention_transfer",
    "committee",
    "crd",
    "dml",
    "ema_pseudo_label",
    "fitnet",
    "fixmatch",
    "kd",
    "ps_kd",
    "rkd",
    "supervised",
]
