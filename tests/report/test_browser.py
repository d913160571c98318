"""Both pages in a real browser, from disk: no errors, no requests, no sideways scrolling, the numbers of the JSON."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from limbeck import report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def tab(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A tab that fails the test over anything in the console, and over any request but for a file."""
    width, scheme = request.param
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url))
    yield tab
    tab.close()
    assert complaints == []


def fits(tab: Page) -> None:
    """Nothing is wider than the window, and with every part opened neither."""
    for _ in range(2):
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"]  # type: ignore[index]
        for details in tab.locator("details").all():
            details.evaluate("each => each.open = true")


def test_the_comparison(tab: Page, tmp_path: Path, found: dict[str, Any]) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(found))
    tab.goto(report.refresh(tmp_path)[0].as_uri())
    found = json.loads((tmp_path / "compare.json").read_text())
    for row in found["table"]:
        for name, scale, digits in (("accuracy", 100, 2), ("difference", 100, 2), ("nll", 1, 4), ("ece", 100, 2)):
            if row[name] is None:
                continue
            cell = tab.locator(f'td[data-arm="{row["arm"]}"][data-figure="{name}"]')
            assert json.loads(cell.get_attribute("data-value") or "") == row[name][0]
            shown = re.findall(r"[+-]?[\d.]+", cell.inner_text().replace("\N{MINUS SIGN}", "-"))
            expected = [scale * value for value in row[name] if value is not None]
            assert [float(text) for text in shown] == pytest.approx(expected, abs=0.51 * 10**-digits)
    fits(tab)


def test_the_distillation(tab: Page, tmp_path: Path, result: dict[str, Any]) -> None:
    result["title"] = "a_title_of_one_very_long_word" * 4
    tab.goto(report.write(tmp_path / "report.html", result).as_uri())
    assert tab.locator("table.map td[style]").all_inner_texts() == ["3", "1", "2"]
    assert tab.locator("img").first.evaluate("image => image.naturalWidth") == 2
    fits(tab)


def test_wide_things_scroll_in_their_own_box(tab: Page, tmp_path: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found).replace('"dkd"', '"' + "a_method_with_quite_a_long_name" * 2 + '"')
    tab.goto(report.compare(tmp_path / "compare.html", json.loads(text)).as_uri())
    table = tab.locator(".wide").first
    if tab.viewport_size["width"] == 390:  # type: ignore[index]
        assert table.evaluate("box => box.scrollWidth > box.clientWidth")
    fits(tab)
