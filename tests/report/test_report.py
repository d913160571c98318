"""Pages as files: whole or not at all, made anew from the numbers beside them, in colours that can be told apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limbeck import report
from limbeck.errors import SettingError
from limbeck.report import comparison, distillation


def test_write_is_atomic(tmp_path: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    assert report.write(path, result) == path
    assert path.read_text("utf-8") == distillation.render(result)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(path, {**result, "title": "another"})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_refresh_makes_the_pages_anew(tmp_path: Path, result: dict[str, Any], found: dict[str, Any]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "compare.json").write_text(json.dumps(found))
    assert report.refresh(tmp_path) == [tmp_path / "report.html", tmp_path / "compare.html"]
    assert (tmp_path / "report.html").read_text("utf-8") == distillation.render(result)
    assert (tmp_path / "compare.html").read_text("utf-8") == comparison.render(found)


def test_refresh_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"neither result\.json nor compare\.json"):
        report.refresh(tmp_path)
    for text in ("{", "{}"):
        (tmp_path / "compare.json").write_text(text)
        with pytest.raises(SettingError, match=r"compare\.json cannot be read"):
            report.refresh(tmp_path)
    assert not (tmp_path / "compare.html").exists()


def test_the_command(tmp_path: Path, result: dict[str, Any]) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result))
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.cli", "report", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    done = subprocess.run([sys.executable, "-m", "limbeck.cli", "report", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere has neither")


def test_importing_the_report_is_cheap() -> None:
    program = "import sys, limbeck.report; print({'matplotlib', 'jinja2', 'torch', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_in_both_schemes() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = Path(report.__file__).with_name("style.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colors in schemes:
        for ground in (colors["paper"], colors["panel"]):
            assert min(contrast(colors[text], ground) for text in ("ink", "muted")) >= 4.5  # text, WCAG AA
        models = ("teacher", "alone", "distilled", "other")
        assert min(contrast(colors[model], colors["paper"]) for model in models) >= 3  # graphics
