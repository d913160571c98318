"""The checks of what methods claim, and the results that are kept of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.effects.core import CHECKS, RESULTS, SEEDS, Check, measure
from limbeck import registry
from limbeck.evaluate import paired


def test_every_method_has_a_check() -> None:
    assert set(CHECKS) == {each.name for each in registry.catalogue()}


def verdict(difference: Callable[[int], float], **fields: float) -> str:
    check = Check("kd", lambda seed: {"method": 10 + difference(seed), "baseline": 10.0}, "supervised", "-", **fields)
    return str(measure(check)["reproduced"])


@pytest.mark.parametrize("better", [1, -1])
def test_a_claim_is_reproduced_where_the_whole_interval_says_so(better: int) -> None:
    assert verdict(lambda seed: better * (2 + 0.1 * seed), better=better) == "yes"
    assert verdict(lambda seed: better * (-2 + 0.1 * seed), better=better) == "no"
    assert verdict(lambda seed: (-1) ** seed, better=better) == "undecided"


def test_a_smaller_gain_than_the_claimed_one_is_none_yet() -> None:
    assert verdict(lambda seed: 2 + 0.1 * seed, margin=2.0) == "yes"
    assert verdict(lambda seed: 2 + 0.1 * seed, margin=3.0) == "undecided"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_result_is_of_a_method_and_follows_from_its_arms(path: Path) -> None:
    found = json.loads(path.read_text())
    assert found["method"] == path.stem in CHECKS
    assert found["seeds"] == list(CHECKS[path.stem].seeds)
    assert {len(arm) for arm in found["arms"].values()} == {len(SEEDS)}
    mean, low, high = paired(found["arms"]["method"], found["arms"]["baseline"])
    assert found["difference"] == pytest.approx([mean, low, high])
    if found["better"] == "less":
        mean, low, high = -mean, -high, -low
    says = {"yes": low > 0 and mean >= found["margin"], "no": high < 0}
    assert found["reproduced"] == next((word for word, holds in says.items() if holds), "undecided")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_result_is_of_the_check_as_it_is_now(path: Path) -> None:
    found, check = json.loads(path.read_text()), CHECKS[path.stem]
    now = {"baseline": check.baseline, "claim": check.claim, "figure": check.figure, "margin": check.margin}
    assert {name: found[name] for name in now} == now
    assert found["settings"] == json.loads(json.dumps(dict(check.settings)))
