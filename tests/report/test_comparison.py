"""The page of a comparison: the numbers of compare.json, what they mean, and nothing that can run."""

from __future__ import annotations

import json
from typing import Any

from limbeck.report.comparison import render
from tests.report.page import Page, harmless, stands_alone

MINUS = "\N{MINUS SIGN}"


def numbers(page: Page) -> dict[tuple[str | None, str], float | None]:
    """Every figure of the tables by arm (None: the teacher) and name, as JSON."""
    cells = [attributes for _, attributes in page.tags if "data-figure" in attributes]
    found = {(cell.get("data-arm"), cell["data-figure"] or ""): json.loads(cell["data-value"] or "") for cell in cells}
    assert len(found) == len(cells), "two cells of the same figure"
    return found


def labels(page: Page) -> list[str]:
    return [svg["aria-label"] or "" for svg in page.all("svg") if svg.get("role") == "img"]


def test_the_numbers_are_those_of_the_json(found: dict[str, Any]) -> None:
    shown = numbers(Page(render(found)))
    expected: dict[tuple[str | None, str], Any] = {}
    for row in found["table"]:
        for name in ("accuracy", "difference", "nll", "ece", "agreement"):
            mean, low, high = row[name] or (None, None, None)
            expected[row["arm"], name] = mean
            if low is not None:
                expected |= {(row["arm"], f"{name}.low"): low, (row["arm"], f"{name}.high"): high}
        expected |= {(row["arm"], name): row[name] for name in ("rank", "time")}
    costs = ("parameters", "flops", "bytes", "latency_ms", "throughput")
    # dkd and kd train the same model: its costs stand there once.
    expected |= {
        (arm, name): found["table"][place][name] for place, arm in ((0, "dkd"), (2, "student alone")) for name in costs
    }
    quality = ("accuracy", "difference", "nll", "ece", "agreement", "time")
    expected |= {(None, name): found["teacher"].get(name) for name in (*quality, *costs)}
    assert shown == expected


def test_the_numbers_are_shown_rounded(found: dict[str, Any]) -> None:
    text = Page(render(found)).text
    assert "1 dkd 92.00 89.52 to 94.48 ▲ clearly above: +3.00 +0.52 to +5.48 0.3100 0.3050 to 0.3150 2.00 97.00" in text
    assert f"2 kd 91.43 88.20 to 94.66 +2.43 {MINUS}0.75 to +5.62 0.3300 2.00" in text
    assert "3 student alone 89.00 86.52 to 91.48 baseline 0.4100" in text
    assert "Teacher 95.00 \N{EN DASH} 0.2000 1.50" in text
    assert "small 78.0k 12.5 320 0.410 21,951 large 175k 28.1 719 0.680 13,235" in text


def test_says_what_was_found_and_how(found: dict[str, Any]) -> None:
    text = Page(render(found)).text
    for words in (
        "dkd 92.00% first, +3.00 points against student alone (95% interval +0.52 to +5.48)",
        "student alone 89.00% rank 3 of 3, the baseline",
        "teacher 95.00% 15.8 times the parameters",
        "Means over 3 seeds, with 95% intervals",
        "on the test set with the weights of the epoch that was best on the validation split",
        "CE() + KL(tau=4.0)",
        "limbeck compare --config compare.yaml",
        "All 9 runs",
        "kd 1 92.50 0.3000 2.00 2 12.3 200",
        "epochs 2",
    ):
        assert words in text


def test_an_uncertain_first_place_is_called_so(found: dict[str, Any]) -> None:
    found["table"] = [{**found["table"][1], "rank": 1}, {**found["table"][2], "rank": 2}]
    text = Page(render(found)).text
    assert f"(95% interval {MINUS}0.75 to +5.62, so not clearly different)" in text
    assert "clearly above" not in text


def test_a_baseline_that_wins(found: dict[str, Any]) -> None:
    found["table"] = [
        {**found["table"][2], "rank": 1},
        {**found["table"][1], "rank": 2, "difference": [-0.02, -0.03, -0.01]},
    ]
    text = Page(render(found)).text
    assert "student alone 89.00% first, the baseline" in text
    assert f"kd 91.43% rank 2 of 2, {MINUS}2.00 points against student alone (95% interval {MINUS}3.00" in text
    assert f"▼ clearly below: {MINUS}2.00" in text


def test_one_seed_has_no_intervals(found: dict[str, Any]) -> None:
    found["seeds"] = [0]
    found["runs"] = [run for run in found["runs"] if run["seed"] == 0]
    for row in found["table"]:
        for name in ("accuracy", "nll", "difference", "agreement"):
            row[name] = row[name] and [row[name][0], None, None]
    page = Page(render(found))
    assert "One seed: no intervals" in page.text
    assert "95%" not in page.text
    assert not any("." in figure for _, figure in numbers(page))


def test_drawings_say_what_they_show(found: dict[str, Any]) -> None:
    drawn = labels(Page(render(found)))
    assert drawn[:4] == [
        "Accuracy, %: dkd 92.00, kd 91.43, student alone 89.00",
        "Difference to student alone, points: dkd +3.00, kd +2.43, student alone 0.00",
        "Accuracy against parameters: small 92.00% at 78.0k, small 91.43% at 78.0k, large 89.00% at 175k, "
        "teacher 95.00% at 1.23M",
        "Accuracy against latency in ms: small 92.00% at 0.410, small 91.43% at 0.410, large 89.00% at 0.680, "
        "teacher 95.00% at 1.83",
    ]
    assert [label.split(" against")[0] for label in drawn[4:]] == [
        *(f"Accuracy of {arm}" for arm in ("dkd", "kd", "student alone")),
        "Loss term ce of dkd",
        "Loss term dkd of dkd",
        "Loss of kd",
        "Loss of student alone",
    ]


def test_one_model_has_no_drawing_of_sizes(found: dict[str, Any]) -> None:
    found |= {"teacher": None, "students": dict.fromkeys(found["students"], "small")}
    page = Page(render(found))
    assert not any("parameters" in label for label in labels(page))
    assert "diamond" not in page.text


def test_what_may_be_missing(found: dict[str, Any]) -> None:
    needed = {"title", "table", "methods", "baseline", "seeds"}
    quick = {**found, "curves": {}}
    for key in found.keys() - needed:
        Page(render({**quick, key: None}))
    Page(render({key: found[key] for key in needed}))
    Page(render({**found, "table": [], "runs": [], "curves": {}}))


def test_escapes_everything(found: dict[str, Any]) -> None:
    evil = "\"'><script>alert(1)</script>$x^2$ \N{CJK UNIFIED IDEOGRAPH-8403}"
    text = json.dumps(found)
    for word in ("dkd", "student alone", "small", "digits", "CE()", "cpu", "compare.yaml"):
        text = text.replace(f'"{word}', json.dumps(evil + word)[:-1])
    page = harmless(render(json.loads(text)))
    assert page.text.count("<script>alert(1)</script>") > 25


def test_stands_alone(found: dict[str, Any]) -> None:
    stands_alone(render(found))
