"""Trans-Encoder: bi- and cross-encoder teach each other the scores of unlabelled pairs (Liu et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from limbeck.blocks.transfer import PairScores
from limbeck.data import Data, as_data
from limbeck.errors import SettingError
from limbeck.procedures.chain import within
from limbeck.run import Run


class Cycle(NamedTuple):
    """The finished runs of one cycle: of each cross-encoder, then of each bi-encoder."""

    cross: list[Run]
    bi: list[Run]


def trans_encoder(
    bi: Run | Sequence[Run],
    cross: Run | Sequence[Run],
    *,
    cycles: int = 3,
    symmetric: bool = True,
    resume: bool = False,
) -> list[Cycle]:
    """In each cycle a cross-encoder learns the bi-encoder's scores, then a bi-encoder the cross-encoder's. All cycles,
    of which the authors keep the one best on labelled held-out pairs, for either kind by itself.

    bi, cross: the two runs, whose `method` and `teacher` are not used. Every step starts from their students as given:
        an unsupervised bi-encoder, and a plain pre-trained model with a fresh head. Several of each are the mutual
        version, where the mean of their scores teaches all. The authors: bi-encoders 10 epochs of batches of 128 at
        5e-5, cross-encoders 1 epoch of 32 at 2e-5 with 10 % warm-up.
    symmetric: cross-encoders see each pair in both orders; False for pairs that are not symmetric, as in QNLI.
    """
    bis, crosses = ([runs] if isinstance(runs, Run) else list(runs) for runs in (bi, cross))
    if not bis or len(bis) != len(crosses) or cycles < 1:
        raise SettingError(
            f"each bi-encoder has one cross-encoder, for 1 cycle at least; got {len(bis)}, {len(crosses)} and {cycles}"
        )
    if symmetric:
        crosses = [replace(each, data=both_orders(as_data(each.data))) for each in crosses]
    teachers: list[Any] = [each.student for each in bis]
    done = []
    for i in range(1, cycles + 1):
        learnt = [fresh(run, "cross", teachers, f"{i}/cross{j}", resume) for j, run in enumerate(crosses)]
        again = [fresh(run, "bi", nets(learnt), f"{i}/bi{j}", resume) for j, run in enumerate(bis)]
        done.append(Cycle(learnt, again))
        teachers = nets(again)
    return done


def nets(runs: Sequence[Run]) -> list[nn.Module]:
    return [run.students[0] for run in runs]


def fresh(run: Run, kind: Literal["bi", "cross"], teachers: Sequence[Any], name: str, resume: bool) -> Run:
    """A copy of the run's student, trained on the teachers' mean scores."""
    student, frozen = copy.deepcopy((run.student, list(teachers)))  # the first teachers are students too
    step = replace(run, student=student, teacher=frozen, method=PairScores(kind), folder=within(run, name))
    step.fit(resume=resume)
    return step


def both_orders(data: Data) -> Data:
    """Each pair (a, b), then each as (b, a); without labels."""
    a, b = data.x["a"], data.x["b"]
    if a.shape[1] != b.shape[1]:
        raise SettingError(f"texts of {a.shape[1]} and {b.shape[1]} tokens cannot change places: pad to one length")
    return Data({"a": torch.cat([a, b]), "b": torch.cat([b, a])})
