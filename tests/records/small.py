"""A small teacher, data and student, as the conformance battery has them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import Data, Objective, Run
from limbeck.data.views import Crop, Flip, View
from limbeck.records import Record
from tests.conformance import Small, images, seeded

ROWS = 64


def teacher(seed: int = 9) -> nn.Module:
    made: nn.Module = seeded(seed, Small, 6)
    return made


def data(view: View | None = None, rows: int = ROWS) -> Data:
    x, y = images(rows)
    return Data(x, y, views={} if view is None else {"x": view}, classes=10)


def run_of(method: Objective, taught: Any, source: Data, **fields: Any) -> Run:
    settings = {"epochs": 3, "batch_size": 16, "seed": 1, "accelerator": "cpu"}
    student = seeded(0, Small, 4)
    return Run(student=student, teacher=taught, data=source, method=method, **(settings | fields))


def record(folder: Path, source: Data | None = None, model: nn.Module | None = None, **settings: Any) -> Record:
    given = {
        "signals": {".logits": "fp32"},
        "views": {"x": 3},
        "seed": 1,
        "batch_size": 16,
        "device": "cpu",
        "command": "limbeck record",
    }
    return Record.capture(folder, model or teacher(), source or data(), **(given | settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def zipf(rows: int, classes: int, seed: int = 0, slope: float = 1.1) -> Tensor:
    """Logits whose probabilities fall as a power of the rank, with noise, in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    logits = -slope * torch.arange(1, classes + 1).double().log() + 0.3 * torch.randn(
        rows, classes, generator=generator, dtype=torch.float64
    )
    order = torch.rand(rows, classes, generator=generator).argsort(1)
    return logits.gather(1, order)


__all__ = ["ROWS", "Crop", "Flip", "contents", "data", "record", "run_of", "teacher", "zipf"]
