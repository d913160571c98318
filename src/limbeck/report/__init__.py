"""The report: one self-contained HTML page that tells what a distillation, or a comparison, gained and how it was made.

result.json -> report.html, compare.json -> compare.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import SettingError
from limbeck.report.comparison import render as comparison_page
from limbeck.report.distillation import render as distillation_page
from limbeck.report.figures import ALONE, DISTILLED, TEACHER
from limbeck.report.page import save

__all__ = ["ALONE", "DISTILLED", "TEACHER", "compare", "refresh", "write"]


def write(path: Path, result: Mapping[str, Any]) -> Path:
    """Write a distillation's page to `path`, whole or not at all, and return the path."""
    return save(path, distillation_page(result))


def compare(path: Path, found: Mapping[str, Any]) -> Path:
    """Write a comparison's page to `path`, whole or not at all, and return the path."""
    return save(path, comparison_page(found))


def refresh(folder: Path) -> list[Path]:
    """Write the pages of a finished run's folder anew, from result.json, compare.json or both.

    Raises SettingError if the folder has neither, or one that cannot be read.
    """
    pages = {"result.json": ("report.html", write), "compare.json": ("compare.html", compare)}
    written = []
    for name, (page, draw) in pages.items():
        source = Path(folder) / name
        if source.exists():
            try:
                written.append(draw(source.with_name(page), json.loads(source.read_text("utf-8"))))
            except (json.JSONDecodeError, KeyError) as error:
                raise SettingError(f"{source} cannot be read as a {name} of this version: {error!r}") from error
    if not written:
        raise SettingError(f"{folder} has neither result.json nor compare.json: give the --out of a run that ended")
    return written
