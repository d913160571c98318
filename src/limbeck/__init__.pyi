"""The public names and where they live; `__init__.py` imports each when it is first used."""

from .blocks import (
    CE as CE,
    CRD as CRD,
    KL as KL,
    RKD as RKD,
    AttentionTransfer as AttentionTransfer,
    CommitteeKL as CommitteeKL,
    EMAPseudoLabel as EMAPseudoLabel,
    Hint as Hint,
    PastSelf as PastSelf,
    Peers as Peers,
    PseudoLabel as PseudoLabel,
)
from .data import UNLABELLED as UNLABELLED, Batch as Batch, Data as Data, few_labels as few_labels
from .methods import (
    attention_transfer as attention_transfer,
    committee as committee,
    crd as crd,
    dml as dml,
    ema_pseudo_label as ema_pseudo_label,
    fitnet as fitnet,
    fixmatch as fixmatch,
    kd as kd,
    ps_kd as ps_kd,
    rkd as rkd,
    supervised as supervised,
)
from .objective import Objective as Objective, Stages as Stages, Term as Term, Weighted as Weighted
from .optim import SGD as SGD, AdamW as AdamW
from .registry import find as find, make as make, method as method
from .run import Run as Run
from .schedules import (
    Cosine as Cosine,
    MultiStep as MultiStep,
    Ramp as Ramp,
    Schedule as Schedule,
    Warmup as Warmup,
)
from .signals import Net as Net, Normalize as Normalize, Output as Output
from .step import Step as Step
from .teachers import EMA as EMA, Bank as Bank, Committee as Committee, Frozen as Frozen
from .weights import (
    TeacherConfidence as TeacherConfidence,
    TeacherEntropy as TeacherEntropy,
    TeacherRight as TeacherRight,
)

__version__: str
__all__: list[str]
