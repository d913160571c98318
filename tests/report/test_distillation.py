"""The page of a distillation: complete, harmless, self-contained, the same for the same result."""

from __future__ import annotations

import base64
import copy
import re
import subprocess
import sys
from typing import Any

import pytest

from limbeck.report import plots
from limbeck.report.distillation import render
from tests.report.page import Page, harmless, stands_alone


def row(page: Page, label: str, cells: int = 3) -> list[str]:
    """What stands in the comparison's cells to the right of `label` and its unit."""
    found = re.search(rf"{re.escape(label)} \S+ [↓↑] \((?:lower|higher) is better\) (.*)", page.text)
    assert found
    return found[1].replace(" (best)", "*").split()[:cells]


def test_tells_the_whole_story(result: dict[str, Any]) -> None:
    page = Page(render(result))
    for words in ("demo on digits", "The student gains.", "0.1 * CE() + 0.9 * KL(tau=4.0)", "limbeck demo --seed 0"):
        assert words in page.text
    assert "+1.67 points, 55% of the gap closed" in page.text
    assert "15.8 times the parameters" in page.text
    assert "epochs 3" in page.text
    assert "schedule –" in page.text  # noqa: RUF001
    assert 'augment ["shift"]' in page.text
    assert [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"] == [
        "Accuracy against epoch: student alone ends at 0.9, student distilled ends at 0.95",
        "Loss term ce against epoch: student alone ends at 0.3333, student distilled ends at 0.09",
        "Loss term kl against epoch: student distilled ends at 0.01",
        "Accuracy against confidence of student alone",
    ]
    assert len(page.all("table")) == len(page.all("caption")) == 6


def test_numbers_are_the_input_formatted(result: dict[str, Any]) -> None:
    page = Page(render(result))
    dash = "\N{EN DASH}"
    assert row(page, "Accuracy") == ["98.89", "95.83", "97.50*"]
    assert row(page, "Negative log-likelihood") == ["0.0412", "0.1512", "0.0921*"]
    assert row(page, "Calibration error (ECE)") == [dash, "3.12", "1.87*"]
    assert row(page, "Agreement") == [dash, dash, "98.06"]
    assert row(page, "Parameters") == ["1.23M", "78.0k", "78.0k"]
    assert row(page, "Compute per example") == ["2.46", "0.155", "0.155"]
    assert row(page, "Size") == [dash, "313", "313"]
    assert row(page, "Latency") == [dash, "0.0512", "0.0508"], "a difference within the noise is no merit"
    assert row(page, "Throughput") == [dash, dash, "199,410"]


def test_equal_students_are_equally_fast(result: dict[str, Any]) -> None:
    result["models"]["student alone"]["latency_ms"] = 0.2
    assert row(Page(render(result)), "Latency")[1:] == ["0.200", "0.0508"]
    result["models"]["student alone"]["flops"] = 2e6
    assert row(Page(render(result)), "Latency")[1:] == ["0.200", "0.0508*"]


def test_a_loss_is_called_a_loss(result: dict[str, Any]) -> None:
    result["models"]["student distilled"]["accuracy"] = 0.9483
    page = Page(render(result))
    assert "\N{MINUS SIGN}1.00 points" in page.text
    assert "gap closed" not in page.text
    assert row(page, "Accuracy") == ["98.89", "95.83*", "94.83"]


def test_warnings_and_what_to_do(result: dict[str, Any]) -> None:
    text = Page(render(result)).text
    assert "Teacher's calibration ECE 21.0%. Over-confident. What to do: --method.tau=6 or more." in text
    assert "Passed on by the teacher a as b. So looks a planted trigger. Learning curves" in text, "nothing to do"
    assert "doubtful" not in text
    result["check"] = [each for each in result["check"] if each["level"] != "warning"]
    text = Page(render(result)).text
    assert "Check No warning. Learning curves" in text
    assert "What to do" not in text
    del result["check"]
    assert "Check" not in Page(render(result)).text


def test_classes_are_sorted_by_gain(result: dict[str, Any]) -> None:
    text = Page(render(result)).text
    assert "change against the student alone" in text
    assert "A class has 10 to 20 test examples; of 10 one example is 10.0 points." in text
    assert "b 80.00 90.00 +10.00 a 90.00 85.00 \N{MINUS SIGN}5.00" in " ".join(text.split())
    values = [index / 100 for index in range(50)]
    accuracy = {"student alone": values, "student distilled": [0.25] * 50}
    many = {"names": [f"c{i}" for i in range(50)], "examples": [100] * 50, "accuracy": accuracy}
    text = Page(render({**result, "classes": many})).text
    assert "A class has 100 test examples, one example being 1.0 points." in text
    assert "Shown are 20 of 50 classes" in text
    assert "c0 0.00 25.00 +25.00" in text
    assert "c25 25.00" not in text


def test_without_a_student_alone_classes_are_held_against_the_teacher(result: dict[str, Any]) -> None:
    accuracy = {"teacher": [0.5, 0.9, None], "student distilled": [0.75, 0.9, None]}
    text = Page(render({**result, "classes": {**result["classes"], "accuracy": accuracy}})).text
    assert "change against the teacher" in text
    assert "a 50.00 75.00 +25.00 b 90.00 90.00 0.00" in text


def test_who_is_right_where_student_and_teacher_differ(result: dict[str, Any]) -> None:
    html = render(result)
    text = Page(html).text
    assert "They answer differently on 6 of 30 examples (20.00%)." in text
    assert "Right there: the teacher on 3, the student on 2, neither on 1." in text
    assert "a b 3 2 1 c a 2 1 0 b a 1 0 1" in text
    map_ = html[html.index('<table class="map">') :]
    cells = re.findall(r"<td([^>]*)>(\d*)</td>", map_[: map_.index("</table>")])
    # Rows a, b, c of the teacher; the student says a or b. The darkest cell is the commonest, the diagonal is empty.
    assert [times for _, times in cells[1:]] == ["", "3", "1", "", "2", ""]
    assert "--share: 1.0" in cells[2][0]
    assert [index for index, (attributes, _) in enumerate(cells[1:]) if "agree" in attributes] == [0, 3]


def test_of_many_classes_only_the_commonest_pairs_are_shown(result: dict[str, Any]) -> None:
    pairs = [[i, (i + 1) % 60, 60 - i, 0, 0] for i in range(60)]
    classes = {"names": [f"c{i}" for i in range(60)], "accuracy": {}}
    confusion = {"examples": 5000, "differ": 1830, "teacher_right": 0, "student_right": 0, "pairs": pairs}
    html = render({**result, "classes": classes, "confusion": confusion})
    assert '<table class="map">' not in html
    assert "The commonest pairs (10 of 60)" in html
    assert "c9 c10 51 0 0" in Page(html).text
    assert "c10 c11" not in Page(html).text


def test_a_student_that_never_differs(result: dict[str, Any]) -> None:
    confusion = {"examples": 30, "differ": 0, "teacher_right": 0, "student_right": 0, "pairs": []}
    assert "They answer differently on 0 of 30 examples" in Page(render({**result, "confusion": confusion})).text


def test_examples_stand_in_their_groups(result: dict[str, Any]) -> None:
    page = Page(render(result))
    assert "Gained Right when distilled, wrong when trained alone: 2 shown" in page.text
    assert page.text.count("truth 7 alone 1 distilled 7 teacher 7") == 3
    assert "some words" in page.text
    assert "Lost Right when trained alone, wrong when distilled: none" in page.text
    assert "(largest KL divergence): 1 shown" in page.text
    assert "teacher 7 KL 1.23" in page.text
    assert [image["alt"] for image in page.all("img")] == ["Example 1, gained", "Example 1, disagreeing"]
    assert base64.b64decode((page.all("img")[0]["src"] or "").removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"


def test_an_image_from_elsewhere_is_not_shown(result: dict[str, Any]) -> None:
    result["examples"] = {"gained": [{"image": "//example.org/pixel.png", "label": "7"}]}
    assert not Page(render(result)).all("img")


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5)])
def test_image_shapes_and_values(shape: tuple[int, ...]) -> None:
    import io

    import numpy as np
    from matplotlib.image import imread

    values = np.random.default_rng(0).integers(0, 256, shape)
    data = base64.b64decode(plots.png(values.tolist()).split(",")[1])
    pixels = np.rint(imread(io.BytesIO(data))[..., :3] * 255).astype(int)
    expected = values if len(shape) == 2 else np.moveaxis(values, 0, -1)
    assert (pixels == (expected[..., None] if len(shape) == 2 else expected)).all()


def test_escapes_everything() -> None:
    evil = "\"'><script>alert(1)</script>"
    curve = [{"epoch": 1, "loss": 1.0, "terms": {evil: 1.0}, "accuracy": 0.5}]
    answers = dict.fromkeys(("label", "teacher", "alone", "distilled", "text", "image"), evil)
    hostile = {
        **dict.fromkeys(("title", "summary", "method", "command"), evil),
        "models": {evil: {"accuracy": 0.5}},
        "settings": {evil: evil},
        "environment": {evil: [evil]},
        "curves": {evil: curve},
        "reliability": {evil: [[0.5, 0.5, 1]]},
        "classes": {"names": [evil] * 2, "accuracy": {"student alone": [0.5, 0], evil: [0.5, 1]}},
        "confusion": {
            "examples": 9,
            "differ": 3,
            "teacher_right": 0,
            "student_right": 0,
            "pairs": [[0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]],
        },
        "check": [{"level": "warning", **dict.fromkeys(("check", "figure", "means", "do"), evil)}],
        "examples": {"gained": [answers], evil: [answers]},
    }
    assert harmless(render(hostile)).text.count("<script>alert(1)</script>") > 25


def test_stands_alone(result: dict[str, Any]) -> None:
    stands_alone(render(result))


def test_every_part_but_title_and_models_may_be_missing(result: dict[str, Any]) -> None:
    quick = {**result, "curves": {}, "reliability": {}}
    for key in result.keys() - {"title", "models"}:
        for smaller in ({k: v for k, v in quick.items() if k != key}, {**quick, key: None}, {**quick, key: {}}):
            Page(render(smaller))
    for models in ({}, {"teacher": None}, {"student": {"accuracy": float("nan"), "nll": None}}):
        page = Page(render({"title": "bare", "models": models}))
        assert "nan" not in page.text
        assert not page.all("table")


def test_odd_curves_are_drawn(result: dict[str, Any]) -> None:
    result["models"]["teacher"] = {}
    result["curves"] = {
        "student alone": [{"epoch": 0, "loss": 1.0}],
        "student distilled": [{"epoch": 1, "loss": float("nan"), "terms": {"kl": 0}}, {"epoch": 2, "terms": None}],
        "never trained": [],
    }
    page = Page(render(result))
    labels = [svg["aria-label"] or "" for svg in page.all("svg") if svg.get("role") == "img"]
    assert [label.split(" against")[0] for label in labels[:-1]] == ["Loss", "Loss term kl"]


def test_equal_results_give_equal_pages(result: dict[str, Any]) -> None:
    import matplotlib

    first = render(result)
    # The reader's own matplotlib settings and another hash seed must change nothing.
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False}):
        assert render(copy.deepcopy(result)) == first
    program = "from limbeck.report.distillation import render; import sys; "
    program += f"sys.stdout.buffer.write(render({result!r}).encode())"
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert again.stdout.decode() == first
