"""The public names and where they live; `__init__.py` imports each when it is first used."""

import collections.abc

from . import export as export, losses as losses
from .data import UNLABELLED as UNLABELLED, Batch as Batch, Data as Data, few_labels as few_labels
from .objective import Objective as Objective, Stages as Stages, Term as Term, Weighted as Weighted
from .optim import SGD as SGD, AdamW as AdamW
from .records import Cached as Cached, Record as Record
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
from .trainer import DistillationTrainer as DistillationTrainer
from .weights import (
    SampledMass as SampledMass,
    TeacherConfidence as TeacherConfidence,
    TeacherEntropy as TeacherEntropy,
    TeacherRight as TeacherRight,
)

def __getattr__(name: str) -> collections.abc.Callable[..., Objective]: ...  # every block and method, by name

__version__: str
__all__: list[str]
