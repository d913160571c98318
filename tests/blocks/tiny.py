"""Runs and models that are as small as can be, in float32 on the CPU, with plain gradient descent: so that a test can
compute all of it once more, by hand."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import SGD, Data, Objective, Run, Step
from limbeck.objective import Term, as_terms
from limbeck.schedules import Clock

LR, CLASSES, WIDTH = 0.5, 3, 4

START = Clock(step=0, steps=10, epoch=0, epochs=5)


def net(hidden: int = 5, *, seed: int = 0, classes: int = CLASSES) -> nn.Sequential:
    """(b, WIDTH) -> (b, classes); the output of `body` is the embedding (b, hidden)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body, fc = nn.Sequential(nn.Linear(WIDTH, hidden), nn.Tanh()), nn.Linear(hidden, classes)
    return nn.Sequential(OrderedDict(body=body, fc=fc))


def convolutional(*widths: int, stride: int = 1, seed: int = 0) -> nn.Sequential:
    """(b, 1, h, w) -> (b, CLASSES) through `layer1`, `layer2`, ... of these widths, each of which divides the sides."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (c, width) in enumerate(zip((1, *widths), widths, strict=False), 1):
            layers[f"layer{i}"] = nn.Sequential(nn.Conv2d(c, width, 3, padding=1, stride=stride), nn.Tanh())
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(widths[-1], CLASSES)}
    return nn.Sequential(layers)


def examples(
    n: int = 12, *, unlabelled: tuple[int, ...] = (), shape: tuple[int, ...] = (WIDTH,), **settings: Any
) -> Data:
    """n examples of CLASSES classes in turn; those at `unlabelled` have no label."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(7))
    y = torch.arange(n) % CLASSES
    y[list(unlabelled)] = -1
    return Data(x, y, classes=CLASSES, **settings)


def tiny(method: Objective, **settings: Any) -> Run:
    """A run that is set up: by default a student of 5 hidden units, 12 examples in batches of 4, one epoch."""
    defaults: dict[str, Any] = {"data": examples(), "epochs": 1, "batch_size": 4, "accelerator": "cpu"}
    settings = {"student": net(), "optimizer": SGD(LR, momentum=0.0, weight_decay=0.0), **defaults, **settings}
    run = Run(method=method, **settings)
    run.setup()
    return run


def step_of(run: Run, index: Tensor, *, clock: Clock = START, epoch: int = 0) -> Step:
    """The step on these examples."""
    run.bundle.train()
    step = Step(run, next(run.train_data.batches([index], seed=run.seed, epoch=epoch)), clock, epoch)
    step.counts = run.count([step])
    return step


def terms_of(run: Run, step: Step) -> dict[str, Term]:
    return as_terms(run.method.loss(step, run.bundle.state))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def descend(loss: Tensor, *modules: nn.Module) -> None:
    """One step of plain gradient descent."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= LR * gradient


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(ours), dict(theirs), rtol=1e-4, atol=1e-5)
