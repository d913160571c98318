"""The report page: complete, harmless, self-contained, the same for the same result."""

from __future__ import annotations

import base64
import copy
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from limbeck import report

VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Reads a page, insisting that every element is closed; keeps the text, the tags and their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        # Cells stand apart on the page, though not in its source.
        self.words.append(" " if tag in {"td", "th", "p", "h1", "h2", "h3", "figcaption"} else "")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def example(group: str, **more: Any) -> dict[str, Any]:
    answers = {"label": "7", "teacher": "7", "alone": "1", "distilled": "7"}
    return {"image": [[0, 255], [128, 7]], **answers, "group": group, **more}


@pytest.fixture
def result() -> dict[str, Any]:
    student = {"parameters": 78_012, "flops": 155_000, "bytes": 313_100}
    return {
        "title": "demo on digits",
        "command": "limbeck demo --seed 0",
        "method": "0.1 * CE() + 0.9 * KL(tau=4.0)",
        "summary": "The student gains.",
        "environment": {"limbeck": "0.1.0", "device": "cpu"},
        "settings": {"epochs": 3, "schedule": None, "augment": ["shift"]},
        "models": {
            "teacher": {"accuracy": 0.9889, "nll": 0.0412, "parameters": 1_234_567, "flops": 2.46e6},
            "student alone": {**student, "accuracy": 0.9583, "nll": 0.1512, "ece": 0.0312, "latency_ms": 0.0512},
            "student distilled": {
                **student,
                "accuracy": 0.975,
                "nll": 0.0921,
                "ece": 0.0187,
                "agreement": 0.9806,
                "kl": 0.0519,
                "latency_ms": 0.0508,
                "throughput": 199_410.4,
            },
        },
        "curves": {
            "student alone": [{"epoch": e, "loss": 1 / e, "terms": {"ce": 1 / e}, "accuracy": 0.9} for e in (1, 2, 3)],
            "student distilled": [
                {"epoch": 1, "loss": 2.0, "terms": {"ce": 1.0, "kl": 1.0}},
                {"epoch": 2, "loss": 0.1, "terms": {"ce": 0.09, "kl": 0.01}, "accuracy": 0.95},
            ],
        },
        "reliability": {"student alone": [[None, None, 0], [0.7, 0.5, 0.25], [0.9, 0.8, 0.75]]},
        "classes": {"names": ["a", "b", "c"], "student alone": [0.9, 0.8, None], "student distilled": [0.85, 0.9, 1]},
        "examples": [example("gained"), example("gained", image=None, text="some words")],
    }


def row(page: Page, label: str, cells: int = 3) -> list[str]:
    """What stands in the comparison's cells to the right of `label` and its unit."""
    found = re.search(rf"{re.escape(label)} \S+ [↓↑] \((?:lower|higher) is better\) (.*)", page.text)
    assert found
    return found[1].replace(" (best)", "*").split()[:cells]


def test_tells_the_whole_story(result: dict[str, Any]) -> None:
    page = Page(report.render(result))
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
    assert len(page.all("table")) == len(page.all("caption")) == 4


def test_numbers_are_the_input_formatted(result: dict[str, Any]) -> None:
    page = Page(report.render(result))
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


def test_a_loss_is_called_a_loss(result: dict[str, Any]) -> None:
    result["models"]["student distilled"]["accuracy"] = 0.9483
    page = Page(report.render(result))
    assert "\N{MINUS SIGN}1.00 points" in page.text
    assert "gap closed" not in page.text
    assert row(page, "Accuracy") == ["98.89", "95.83*", "94.83"]


def test_classes_are_sorted_by_gain(result: dict[str, Any]) -> None:
    assert "b 80.00 90.00 +10.00 a 90.00 85.00 \N{MINUS SIGN}5.00" in Page(report.render(result)).text
    values = [index / 100 for index in range(50)]
    many = {"names": [f"c{i}" for i in range(50)], "student alone": values, "student distilled": [0.25] * 50}
    text = Page(report.render({**result, "classes": many})).text
    assert "Shown are 20 of 50 classes" in text
    assert "c0 0.00 25.00 +25.00" in text
    assert "c25 25.00" not in text


def test_examples_stand_in_their_groups(result: dict[str, Any]) -> None:
    page = Page(report.render(result))
    assert "Gained Right when distilled, wrong when trained alone: 2 shown" in page.text
    assert page.text.count("truth 7 · alone 1 · distilled 7 · teacher 7") == 2
    assert "some words" in page.text
    assert "Lost Right when trained alone, wrong when distilled: none" in page.text
    (image,) = page.all("img")
    assert image["alt"] == "Example 1, gained"
    assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5)])
def test_image_shapes_and_values(shape: tuple[int, ...]) -> None:
    import io

    import numpy as np
    from matplotlib.image import imread

    values = np.random.default_rng(0).integers(0, 256, shape)
    data = base64.b64decode(report.plots.png(values.tolist()).split(",")[1])
    pixels = np.rint(imread(io.BytesIO(data))[..., :3] * 255).astype(int)
    expected = values if len(shape) == 2 else np.moveaxis(values, 0, -1)
    assert (pixels == (expected[..., None] if len(shape) == 2 else expected)).all()


def test_escapes_everything() -> None:
    evil = "\"'><script>alert(1)</script>"
    curve = [{"epoch": 1, "loss": 1.0, "terms": {evil: 1.0}, "accuracy": 0.5}]
    answers = dict.fromkeys(("label", "teacher", "alone", "distilled", "text"), evil)
    hostile = {
        **dict.fromkeys(("title", "summary", "method", "command"), evil),
        "models": {evil: {"accuracy": 0.5}},
        "settings": {evil: evil},
        "environment": {evil: [evil]},
        "curves": {evil: curve},
        "reliability": {evil: [[0.5, 0.5, 1]]},
        "classes": {"names": [evil], "student alone": [0.5], "student distilled": [0.5]},
        "examples": [{**answers, "image": None, "group": "gained"}, {**answers, "image": [[1]], "group": evil}],
    }
    page = Page(report.render(hostile))
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count("<script>alert(1)</script>") > 15


def test_loads_nothing_and_ids_are_unique(result: dict[str, Any]) -> None:
    html = report.render(result)
    assert set(re.findall(r"https?://[^\"' ]*", html)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert references
    assert references <= set(ids)
    assert "#0000f" not in html, "a placeholder colour was left in a drawing"


def test_every_part_but_title_and_models_may_be_missing(result: dict[str, Any]) -> None:
    for key in result.keys() - {"title", "models"}:
        for smaller in ({k: v for k, v in result.items() if k != key}, {**result, key: None}, {**result, key: {}}):
            Page(report.render(smaller))
    for models in ({}, {"teacher": None}, {"student": {"accuracy": float("nan"), "nll": None}}):
        page = Page(report.render({"title": "bare", "models": models}))
        assert "nan" not in page.text
        assert not page.all("table")


def test_odd_curves_are_drawn(result: dict[str, Any]) -> None:
    result["models"]["teacher"] = {}
    result["curves"] = {
        "student alone": [{"epoch": 0, "loss": 1.0}],
        "student distilled": [{"epoch": 1, "loss": float("nan"), "terms": {"kl": 0}}, {"epoch": 2, "terms": None}],
        "never trained": [],
    }
    page = Page(report.render(result))
    labels = [svg["aria-label"] or "" for svg in page.all("svg") if svg.get("role") == "img"]
    assert [label.split(" against")[0] for label in labels[:-1]] == ["Loss", "Loss term kl"]


def test_write_is_atomic(tmp_path: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    assert report.write(path, result) == path
    assert path.read_text("utf-8") == report.render(result)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(path, {**result, "title": "another"})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_equal_results_give_equal_pages(result: dict[str, Any]) -> None:
    import matplotlib

    first = report.render(result)
    # The reader's own matplotlib settings and another hash seed must change nothing.
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False}):
        assert report.render(copy.deepcopy(result)) == first
    program = f"from limbeck import report; import sys; sys.stdout.buffer.write(report.render({result!r}).encode())"
    again = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert again.stdout.decode() == first


def test_importing_the_report_is_cheap() -> None:
    program = (
        "import sys, limbeck; before = set(sys.modules); import limbeck.report; "
        "print({'matplotlib', 'jinja2'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"
