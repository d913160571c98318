from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch

import limbeck
from limbeck.blocks.noise import NoisySelf, before_the_last_label
from limbeck.errors import SettingError, SignalError
from limbeck.losses.logit import kl
from limbeck.objective import Term
from tests.blocks.test_sequence_blocks import EVERY, run_of, texts
from tests.blocks.tiny import step_of, terms_of


def terms(run: Any) -> tuple[Any, dict[str, Term]]:
    step = step_of(run, EVERY)
    step.batch = run.method.prepare(step.batch, step, run.bundle.state)
    step.forget()
    return step, terms_of(run, step)


def test_the_clean_pass_is_clean_and_the_noisy_ones_differ() -> None:
    run = run_of(NoisySelf(("blocks.0",), std=0.5, soft=2.0, consistency=3.0))
    step, found = terms(run)
    clean, first, second = (step.student(view).logits for view in ("x", "noisy/1", "noisy/2"))
    ids = run.train_data.x["input_ids"]
    assert torch.equal(step.student.whole("x").logits, run.students[0].module(ids).logits)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(found["soft"].value, kl(first, clean) + kl(second, clean))
    torch.testing.assert_close(found["consistency"].value, 3 * kl(first, second))


@pytest.mark.parametrize("which", ["largest", "lowest"])
def test_layers_are_chosen_by_their_signal_and_the_choice_is_saved(which: str) -> None:
    layers = ("blocks.0.mlp", "blocks.0", "embed")
    run = run_of(NoisySelf(layers, std=0.5, most=1, which=which))
    noise = run.bundle.state
    chosen = noise.chosen.tolist()
    assert sum(chosen) == 1
    noise.chosen.fill_(True)
    outputs: list[dict[int, torch.Tensor]] = []
    for _ in range(200):  # once more: clean, noisy, clean, noisy, ...
        noise.seen = {}
        with noise.on() if len(outputs) % 2 else nullcontext():
            run.students[0].module(run.train_data.x["input_ids"][:4])
        outputs.append(noise.seen)
    ratios = [
        sum((c[i].abs().mean() / (n[i] - c[i]).abs().mean()).item() for c, n in pairwise(outputs)) for i in range(3)
    ]
    best = max if which == "largest" else min
    assert chosen == [ratio == best(ratios) for ratio in ratios]
    assert "chosen" in noise.state_dict()


def test_unchosen_layers_stay_clean() -> None:
    run = run_of(NoisySelf(("blocks.0", "embed"), std=0.5))
    run.bundle.state.chosen.fill_(False)
    _, found = terms(run)
    assert not found["soft"].value.any()
    assert not found["consistency"].value.any()


def test_tokens_before_the_last_label_are_no_padding() -> None:
    y = torch.tensor([[-1, 2, -1, 3, -1], [-1, -1, -1, -1, -1]])
    assert before_the_last_label(y).int().tolist() == [[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert before_the_last_label(texts().y).sum(1).tolist() == [5, 4, 4, 3]


def test_gradient_flows_into_the_clean_pass_unless_detached() -> None:
    slopes = []
    for detach in (False, True):
        torch.manual_seed(0)
        run = run_of(NoisySelf(("blocks.0",), std=0.5, consistency=0.0, detach=detach))
        torch.manual_seed(1)
        step, found = terms(run)
        clean = step.student("x").logits
        slopes.append(torch.autograd.grad(found["soft"].value.sum(), clean, allow_unused=True)[0])
    assert slopes[0].abs().max() > 0
    assert slopes[1] is None


def test_bad_settings() -> None:
    with pytest.raises(SettingError, match="std > 0"):
        NoisySelf(("blocks.0",), std=0.0)
    with pytest.raises(SignalError, match=r"blocks\.7"):
        run_of(limbeck.noisefit(layers=("blocks.7",), std=0.1))
