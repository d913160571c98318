"""Limbeck: a model learns from targets that something else produces.

    import limbeck
    run = limbeck.Run(student=student, teacher=teacher, data=(x, y), method=limbeck.kd(tau=4.0), epochs=30)
    run.fit()

The core, in reading order: objective.py, step.py, run.py.
"""

from limbeck.blocks import (
    CE,
    CRD,
    KL,
    RKD,
    AttentionTransfer,
    CommitteeKL,
    EMAPseudoLabel,
    Hint,
    PastSelf,
    Peers,
    PseudoLabel,
)
from limbeck.data import UNLABELLED, Batch, Data, few_labels
from limbeck.methods import (
    attention_transfer,
    committee,
    crd,
    dml,
    ema_pseudo_label,
    fitnet,
    fixmatch,
    kd,
    ps_kd,
    rkd,
    supervised,
)
from limbeck.objective import Objective, Stages, Term, Weighted
from limbeck.optim import SGD, AdamW
from limbeck.registry import find, make, method
from limbeck.run import Run
from limbeck.schedules import Cosine, MultiStep, Ramp, Schedule, Warmup
from limbeck.signals import Net, Normalize, Output
from limbeck.step import Step
from limbeck.teachers import EMA, Bank, Committee, Frozen
from limbeck.weights import TeacherConfidence, TeacherEntropy, TeacherRight

__version__ = "0.1.0"

#: Names that the code of a method or optimiser is made of; see `registry.read`.
CODE = [
    "CE",
    "CRD",
    "KL",
    "RKD",
    "SGD",
    "AdamW",
    "AttentionTransfer",
    "CommitteeKL",
    "Cosine",
    "EMAPseudoLabel",
    "Hint",
    "MultiStep",
    "PastSelf",
    "Peers",
    "PseudoLabel",
    "Ramp",
    "Stages",
    "TeacherConfidence",
    "TeacherEntropy",
    "TeacherRight",
    "Warmup",
    "Weighted",
]

__all__ = [
    "CE",
    "CRD",
    "EMA",
    "KL",
    "RKD",
    "SGD",
    "UNLABELLED",
    "AdamW",
    "AttentionTransfer",
    "Bank",
    "Batch",
    "Committee",
    "CommitteeKL",
    "Cosine",
    "Data",
    "EMAPseudoLabel",
    "Frozen",
    "Hint",
    "MultiStep",
    "Net",
    "Normalize",
    "Objective",
    "Output",
    "PastSelf",
    "Peers",
    "PseudoLabel",
    "Ramp",
    "Run",
    "Schedule",
    "Stages",
    "Step",
    "TeacherConfidence",
    "TeacherEntropy",
    "TeacherRight",
    "Term",
    "Warmup",
    "Weighted",
    "attention_transfer",
    "committee",
    "crd",
    "dml",
    "ema_pseudo_label",
    "few_labels",
    "find",
    "fitnet",
    "fixmatch",
    "kd",
    "make",
    "method",
    "ps_kd",
    "rkd",
    "supervised",
]
