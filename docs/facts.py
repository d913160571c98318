"""What is known of each method and tool by running it: signals, parity with the authors' code, effect, cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import UNLABELLED, Net, registry
from limbeck.registry import Method
from limbeck.signals import Output
from tests.conformance import Small, Speaker, data_of, examples, model_of, run_of, seeded
from tests.parity.test_parity import CASES, LOOSE

RESULTS = Path(__file__).parent.parent / "bench/results"


def facts() -> dict[str, dict[str, Any]]:
    """What methods/facts.json holds."""
    costs = read(RESULTS / "costs.json").get("methods", {})
    found = {}
    for method in registry.catalogue():
        own: dict[str, Any] = {"signals": signals(method)} if isinstance(method, Method) else {}
        if cases := list(parity(method.name)):
            own["parity"] = cases
        if effect := read(RESULTS / f"effects/{method.name}.json"):
            shown = ("figure", "better", "difference", "baseline", "claim", "reproduced")
            own["effect"] = {name: effect[name] for name in shown} | {"seeds": len(effect["seeds"])}
        if method.name in costs:
            own["cost"] = {name: costs[method.name][name] for name in ("time", "memory")}
        found[method.name] = own
    return found


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


# ---- parity ---------------------------------------------------------------------------------------------------------


def parity(name: str) -> Iterator[dict[str, Any]]:
    """The cases of a method: they are called like it, or like it and something more."""
    for case, content in CASES.items():
        if owner(case) == name:
            official = content["official"]
            known = official and not official.startswith("none")
            yield {"case": case, "with": official if known else None, "tolerance": "1e-5" if case in LOOSE else "1e-6"}


def owner(case: str) -> str | None:
    """Of several methods that it could belong to, the one with the longest name."""
    words = case.replace("-", "_") + "_"
    names = (each.name for each in registry.catalogue())
    return max((name for name in names if words.startswith(f"{name}_")), key=len, default=None)


# ---- signals --------------------------------------------------------------------------------------------------------


class Split(nn.Module):
    """A teacher with the logits of one network and the layers of another."""

    def __init__(self, logits_of: int, layers_of: int) -> None:
        super().__init__()
        self.other = seeded(logits_of, Small, 6)
        for name, layer in seeded(layers_of, Small, 6).named_children():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        logits: Tensor = self.other(x)
        return logits


class SplitSpeaker(Speaker):
    """The same of sequences."""

    def __init__(self, logits_of: int, layers_of: int) -> None:
        super().__init__(6)
        self.load_state_dict(seeded(layers_of, Speaker, 6).state_dict())
        self.other = [seeded(logits_of, Speaker, 6)]  # no part of it: its layers have other names

    def forward(self, input_ids: Tensor, **rest: Any) -> Output:
        layers, other = super().forward(input_ids).signals, self.other[0].eval()(input_ids)
        return Output({**layers, ".embedding": other.embedding}, head=other.head)


def split(method: Method, logits_of: int, layers_of: int) -> Net:
    if "sequences" in method.needs:
        return Net(SplitSpeaker(logits_of, layers_of))
    return Net(Split(logits_of, layers_of), head="fc")


def signals(method: Method) -> list[str]:
    """A signal is one that a method learns from if another one makes another student; without any, it is itself."""
    x, y = examples(method)

    def student(
        labels: Tensor = y, logits: tuple[int, ...] = (1, 2), layers: tuple[int, ...] = (3, 4), peer: int = 1
    ) -> dict[str, Tensor]:
        run = run_of(method)
        run.data = data_of(method, x, labels)
        teachers = [split(method, *pair) for pair in zip(logits, layers, strict=True)]
        run.teacher = teachers if "teachers" in method.needs else teachers[0] if "teacher" in method.needs else None
        if "students" in method.needs:
            run.student = [seeded(i, model_of(method), 4) for i in (0, peer)]
        run.fit()
        return run.students[0].state_dict()

    usual = student()

    def differs(**other: Any) -> bool:
        return any(not torch.equal(usual[name], each) for name, each in student(**other).items())

    tried: dict[str, dict[str, Any]] = {"labels": {"labels": torch.where(y != UNLABELLED, (y + 1) % 10, y)}}
    if method.needs & {"teacher", "teachers"}:
        # the layers change places: a method may just choose between them
        tried |= {"logits": {"logits": (5, 6)}, "features": {"layers": (4, 3)}}
    if "students" in method.needs:
        tried["peers"] = {"peer": 7}
    return [name for name, other in tried.items() if differs(**other)] or ["itself"]
