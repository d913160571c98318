"""The examples run, and do what they say."""

import ast
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck import registry

EXAMPLES = Path(__file__).parent.parent / "examples"


def main_of(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_plain_torch_and_limbeck_end_in_the_same_weights() -> None:
    start, plain, ours = (main_of(name)(epochs=epochs) for name, epochs in (("kd", 1), ("kd_plain", 3), ("kd", 3)))
    torch.testing.assert_close(dict(ours.named_parameters()), dict(plain.named_parameters()), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(ours.fc.weight, start.fc.weight, rtol=0.01)  # it did learn in between


def test_the_twins_differ_in_one_function_only() -> None:
    plain, ours = (
        {
            node.name: ast.unparse(node)
            for node in ast.parse((EXAMPLES / name).read_text()).body
            if hasattr(node, "name")
        }
        for name in ("kd_plain.py", "kd.py")
    )
    assert list(plain) == list(ours)
    assert [name for name in plain if plain[name] != ours[name]] == ["fit"]


def test_a_hugging_face_student_learns() -> None:
    pytest.importorskip("transformers")
    accuracy = main_of("huggingface")(examples=1200, epochs=8)
    assert accuracy["student taught"] > 0.3  # chance: 1/6
    assert accuracy["student taught"] > accuracy["student alone"]


def test_a_trainer_s_student_learns() -> None:
    pytest.importorskip("accelerate")
    loss = main_of("trainer")(examples=160)
    assert all(nats < 5.0 for nats in loss.values())  # chance: ln 257 = 5.5


def test_an_own_method_is_found_by_its_name() -> None:
    try:
        row = main_of("own_method")(epochs=6)
        assert repr(registry.make("chebyshev", tau=4.0)) == "CE() + 4.0 * Chebyshev(tau=4.0)"
    finally:
        registry.METHODS.pop("chebyshev", None)
    assert row["accuracy"] > 0.7
    assert row["terms"]["chebyshev"] > 0
