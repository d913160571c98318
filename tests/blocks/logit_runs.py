"""A small run, and one step of it, for tests of objectives."""

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import Data
from limbeck.models import build
from limbeck.objective import Objective, Terms, as_terms
from limbeck.run import Run
from limbeck.schedules import Clock
from limbeck.step import Step

N = 12


def images(channels: int = 1, size: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.rand(N, channels, *size, generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    """Of four classes; the last two examples have none."""
    return torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, -1, -1])


def net(name: str = "mlp", *, seed: int = 0, channels: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, channels=channels, classes=4, size=8)


def run_of(method: Objective, student: Any = None, teacher: Any = None, **settings: Any) -> Run:
    if "data" not in settings:
        settings["data"] = Data(images(), labels(), classes=4)
    student = net() if student is None else student
    return Run(student=student, teacher=teacher, method=method, **{"epochs": 2, "batch_size": 4, **settings})


def terms_of(run: Run) -> tuple[Step, Terms]:
    """A step on all examples, and the terms of its loss."""
    run.setup()
    run.bundle.train()
    step = Step(run, run.on_device(run.train_data.example(N)), Clock(0, 1, 0, 1), 0)
    with torch.no_grad():
        step.batch = run.method.prepare(step.batch, step, run.bundle.state)
    step.forget()
    return step, as_terms(run.method.loss(step, run.bundle.state))


def gradients(term: Tensor, module: nn.Module) -> bool:
    """Does anything of this reach the module?"""
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(term.sum(), parameters, allow_unused=True, retain_graph=True)
    return any(g is not None and bool(g.any()) for g in found)
