"""TAID's wandering target."""

import json
from pathlib import Path

import pytest
import torch

from limbeck.blocks.taid import TAID, Wander
from limbeck.errors import SettingError
from tests.blocks.logit_runs import N, net, run_of, terms_of

SCHEDULE = json.loads((Path(__file__).parents[1] / "parity" / "cases" / "taid.json").read_text())["schedule"]


def test_t_is_the_authors() -> None:
    p = SCHEDULE["params"]
    state = Wander(p["t_start"])
    for loss, step, t, delta in zip(
        SCHEDULE["losses"], SCHEDULE["global_steps"], SCHEDULE["t_after"], SCHEDULE["delta"], strict=True
    ):
        before = state.t.clone()
        line = p["t_start"] + (p["t_end"] - p["t_start"]) * step / p["num_train_steps"]
        state.follow(torch.tensor(loss), line=line, end=p["t_end"], alpha=p["alpha"], beta=p["beta"])
        assert state.t.item() == pytest.approx(t, rel=1e-6)
        if delta is not None:
            ahead = p["alpha"] * state.momentum.sigmoid() * (1 - before)
            assert ahead.item() == pytest.approx(delta, rel=1e-5)


def test_a_falling_loss_hurries_t() -> None:
    slow, fast = Wander(0.4), Wander(0.4)
    for i in range(50):
        slow.follow(torch.tensor(1.0 + i), line=0.4, end=1.0, alpha=0.05, beta=0.9)
        fast.follow(torch.tensor(0.5**i), line=0.4, end=1.0, alpha=0.05, beta=0.9)
    assert 0.4 < slow.t < fast.t <= 1.0


def test_t_rises_to_its_end_over_a_run() -> None:
    run = run_of(TAID(), net(seed=1), net(seed=2), epochs=10)
    seen = []

    class Watcher:
        def step(self, run) -> None:
            seen.append(run.bundle.state.t.item())

        def epoch(self, run, row) -> None: ...

    run.watcher = Watcher()
    run.fit()
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(0.4)
    assert seen[-1] >= 0.4 + 0.6 * (run.steps_done - 1) / run.steps_done - 1e-6


def test_t_moves_alike_with_micro_batches() -> None:
    ts = []
    for micro in (None, 2):
        run = run_of(TAID(alpha=0.1), net(seed=1), net(seed=2), micro_batch=micro)
        run.fit()
        ts.append(run.bundle.state.t)
    torch.testing.assert_close(*ts)


def test_an_end_stays_an_end() -> None:
    run = run_of(TAID(start=0.2, end=0.5, alpha=1.0), net(seed=1), net(seed=2), epochs=4)
    run.fit()
    assert run.bundle.state.t.item() == pytest.approx(0.5)
    with pytest.raises(SettingError, match="start <= end"):
        TAID(start=0.6, end=0.5)


def test_one_number_per_example() -> None:
    _, terms = terms_of(run_of(TAID(), teacher=net(seed=1)))
    assert terms["taid"].value.shape == (N,)
