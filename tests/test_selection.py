import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.optimize import linprog

from limbeck.selection import Level, adversarial_sampling, draw, llkd_weights, margin_gain
from tests.parity.targets import llkd_parts
from tests.strategies import few

CASE = json.loads((Path(__file__).parent / "parity/cases/llkd.json").read_text())


def test_llkd_intermediate_values_of_the_parity_case() -> None:
    inputs = {name: torch.tensor(CASE["inputs"][name], dtype=torch.float64) for name in ("student", "teacher_probs")}
    weight, selected, label, sure, unsure = llkd_parts(inputs | {"state": CASE["inputs"]["state"]}, CASE["params"])
    assert selected.int().tolist() == CASE["selected"]
    assert label.tolist() == CASE["pseudo"]
    after = CASE["state_after"]
    for found, expected in [
        (weight, CASE["weight"]),
        (sure.thresholds, CASE["threshold_teacher"]),
        (unsure.thresholds, CASE["threshold_student"]),
        (sure.overall, after["gT"]),
        (sure.classes, after["lT"]),
        (unsure.overall, after["gS"]),
        (unsure.classes, after["lS"]),
    ]:
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_an_absent_class_keeps_its_level() -> None:
    level = Level(torch.tensor(0.5), torch.tensor([0.2, 0.4, 0.8]))
    after = level.after(torch.tensor([1.0, 0.0, 0.6]), torch.tensor([0, 0, 2]), 0.9)
    torch.testing.assert_close(after.classes, torch.tensor([0.23, 0.4, 0.78]))
    torch.testing.assert_close(after.overall, torch.tensor(0.45 + 0.1 * 1.6 / 3))
    torch.testing.assert_close(level.thresholds, torch.tensor([0.125, 0.25, 0.5]))


def test_llkd_weights_are_strict() -> None:
    level = Level(torch.tensor(0.5), torch.ones(2))
    half, sure = torch.tensor([0.5, 0.6]), torch.tensor([0.9, 0.9])
    weight, selected = llkd_weights(sure, half, torch.tensor([0, 1]), sure=level, unsure=level)
    assert selected.tolist() == [False, True]
    torch.testing.assert_close(weight, torch.tensor([0.0, 0.9 * 0.6 / math.log(2)]))


def test_margin_gain() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 1e-30]]).log()
    torch.testing.assert_close(margin_gain(logits), torch.tensor([0.5, 1.0]))
    assert margin_gain(torch.tensor([[1e4, -1e4]])).tolist() == [0.0]


def worst_case(p: np.ndarray, g: np.ndarray, m: int, rho: float) -> float:
    return float((p * g).sum() - (1 + rho) * np.sort(p * g)[::-1][:m].sum())


@few
@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from([0.0, 0.5, 1.0]), st.data())
def test_adversarial_sampling_is_the_optimum_of_the_linear_programme(
    seed: int, n: int, rho: float, data: st.DataObject
) -> None:
    m = data.draw(st.integers(0, n - 1))
    g = np.random.default_rng(seed).uniform(0.05, 1, n)
    p = adversarial_sampling(torch.from_numpy(g), wrong=m, rho=rho).numpy()
    assert abs(p.sum() - 1) < 1e-12
    # max sum p g - (1 + rho) (m t + sum u), u >= p g - t: the sum of the m largest by duality
    c = np.concatenate([-g, [(1 + rho) * m], np.full(n, 1 + rho)])
    a = np.hstack([np.diag(g), -np.ones((n, 1)), -np.eye(n)])
    bounds = [(0, None)] * n + [(None, None)] + [(0, None)] * n
    a_eq = np.concatenate([np.ones(n), np.zeros(n + 1)])[None]
    best = -linprog(c, A_ub=a, b_ub=np.zeros(n), A_eq=a_eq, b_eq=[1], bounds=bounds).fun
    if best > 1e-9:
        assert worst_case(p, g, m, rho) == pytest.approx(best, abs=1e-9)
        products = (p * g)[p > 0]
        assert products == pytest.approx(products[0])
    else:
        assert p == pytest.approx(1 / n)


def test_adversarial_sampling_at_its_ends() -> None:
    g = torch.tensor([0.3, 0.9, 0.0, 0.5])
    assert adversarial_sampling(g, wrong=0).tolist() == [0, 1, 0, 0]  # a perfect teacher: the best alone
    assert adversarial_sampling(g, wrong=2).tolist() == [0.25] * 4  # a hopeless one
    assert adversarial_sampling(torch.zeros(2), wrong=0).tolist() == [0.5, 0.5]
    by_hand = adversarial_sampling(g, wrong=1, rho=0.0)  # values 0, 9 / 28 = .321, 9 / 29 = .310: the first two
    torch.testing.assert_close(by_hand, torch.tensor([0.0, 5 / 14, 0.0, 9 / 14]))


def test_draw() -> None:
    g = torch.Generator().manual_seed(0)
    p, spare = torch.tensor([0.0, 0.7, 0.3, 0.0]), torch.tensor([0.1, 0.9, 0.8, 0.2])
    first = [int(draw(p, 1, spare=spare, generator=g)[0]) for _ in range(2000)]
    assert set(first) == {1, 2}
    assert sum(i == 1 for i in first) / 2000 == pytest.approx(0.7, abs=0.04)
    assert sorted(draw(p, 2, spare=spare, generator=g).tolist()) == [1, 2]
    assert draw(p, 3, spare=spare, generator=g).tolist()[2] == 3  # none left to draw: the largest of the rest
    assert sorted(draw(p, 9, spare=spare, generator=g).tolist()) == [0, 1, 2, 3]
