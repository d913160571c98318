"""Small runs and single steps for the tests of pipelines."""

import torch
from torch import Tensor, nn

from limbeck import Run
from limbeck.data import Data, load
from limbeck.models import build
from limbeck.objective import as_terms
from limbeck.schedules import Clock
from limbeck.step import Step


def net(seed: int = 0, name: str = "mlp") -> nn.Module:
    torch.manual_seed(seed)
    return build(name, channels=1, classes=10, size=8)


def digits(rows: int = 256) -> tuple[Data, Data]:
    train, test = load("digits")
    return Data(train.x[:rows], train.y[:rows], classes=10), Data(test.x, test.y, classes=10)


def step_of(run: Run, rows: int = 16) -> Step:
    """The first rows as one step, prepared."""
    run.setup()
    batch = run.on_device(next(run.train_data.batches([torch.arange(rows)])))
    step = Step(run, batch, Clock(0, 1, 0, 1), 0)
    with torch.no_grad():
        step.batch = run.method.prepare(batch, step, run.bundle.state)
        step.forget()
    step.counts = run.count([step])
    return step


def parts(run: Run, step: Step) -> dict[str, Tensor]:
    terms = as_terms(run.method.loss(step, run.bundle.state))
    return {name: term.part(step) for name, term in terms.items()}
