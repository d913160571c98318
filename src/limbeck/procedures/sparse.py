"""Fine-tuning that changes few parameters (Ansell et al. 2022, LT-SFT)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import SettingError
from limbeck.procedures.chain import within
from limbeck.run import Run


def sparse_tuned(run: Run, share: float, *, resume: bool = False) -> list[Run]:
    """Train all of the student's parameters, go back to its start, and train again only those that changed most. The
    two finished runs.

    share: of the parameters, in (0, 1]. The second run has no weight decay, which would change the others.
    """
    if not 0 < share <= 1 or isinstance(run.student, Sequence):
        raise SettingError(f"a share in (0, 1] of one student's parameters is tuned; got share={share}")
    student, optimizer = run.student, run.optimizer
    start = copy.deepcopy(student.state_dict())
    whole = replace(run, folder=within(run, "whole"))
    whole.fit(resume=resume)
    trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
    masks = largest({name: (p.detach() - start[name].to(p)).abs() for name, p in trained.items()}, share)
    student.load_state_dict(start)
    hooks = [p.register_hook(masks[name].__mul__) for name, p in trained.items()]
    settings: Any = replace(optimizer, weight_decay=0.0) if hasattr(optimizer, "weight_decay") else optimizer  # type: ignore[type-var]
    part = replace(run, optimizer=settings, folder=within(run, "sparse"))
    try:
        part.fit(resume=resume)
    finally:
        for hook in hooks:
            hook.remove()
    return [whole, part]


def largest(sizes: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of the `share` of all entries that are largest, at least one."""
    flat = torch.cat([each.flatten() for each in sizes.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(max(1, round(share * len(flat)))).indices] = True
    parts = chosen.split([each.numel() for each in sizes.values()])
    return {name: part.view_as(sizes[name]) for name, part in zip(sizes, parts, strict=True)}
