"""The numbers of the authors' own code, and the gradients of scalars and of the member "total" of mappings.

A case that needs a new adapter: put its JSON into `cases/` and `ADAPTERS["its-id"]` into a module of this folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.adapters import ADAPTERS

CASES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "cases").glob("*.json"))}

#: Cases whose reference, by its notes, is itself only exact to 1e-5.
LOOSE: frozenset[str] = frozenset()


def given(case: dict[str, Any]) -> dict[str, Any]:
    """The inputs: arrays as float64 or int64 tensors, those with a stored gradient requiring one; others as they are.

    Lists of texts, mappings or rows of unequal lengths are no arrays.
    """
    inputs = {}
    for name, value in case["inputs"].items():
        inputs[name] = value
        if isinstance(value, list):
            try:
                array = np.array(value)
            except ValueError:
                continue
            if array.dtype.kind in "iu":
                inputs[name] = torch.from_numpy(array.astype(np.int64))
            elif array.dtype.kind == "f":
                inputs[name] = torch.from_numpy(array.astype(np.float64)).requires_grad_(
                    case.get(f"grad_{name}") is not None
                )
            elif array.dtype.kind == "b":
                inputs[name] = torch.from_numpy(array)
    return inputs


def agree(actual: Any, expected: Any, case: str) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, part in expected.items():
            agree(actual[name], part, case)
    elif isinstance(expected, str) or expected is None:
        assert actual == expected
    else:
        exact = torch.tensor(expected, dtype=torch.float64)
        found = torch.as_tensor(actual).detach().double()
        torch.testing.assert_close(found, exact, rtol=1e-5 if case in LOOSE else 1e-6, atol=1e-12)


def test_every_case_has_an_adapter_and_every_adapter_a_case() -> None:
    assert ADAPTERS.keys() == CASES.keys()


@pytest.mark.parametrize("name", sorted(ADAPTERS.keys() & CASES.keys()))
def test_value_and_gradient(name: str) -> None:
    case = CASES[name]
    inputs = given(case)
    output = ADAPTERS[name](inputs, case.get("params", {}))
    agree(output, case["output"], name)
    wanted = [key for key in inputs if case.get(f"grad_{key}") is not None]
    total, expected = (each.get("total") if isinstance(each, dict) else each for each in (output, case["output"]))
    if wanted and isinstance(expected, float):
        gradients = torch.autograd.grad(total, [inputs[key] for key in wanted], allow_unused=True)
        for key, gradient in zip(wanted, gradients, strict=True):
            agree(torch.zeros_like(inputs[key]) if gradient is None else gradient, case[f"grad_{key}"], name)
