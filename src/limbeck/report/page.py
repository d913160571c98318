"""HTML from the templates in this folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.report.figures import plain, slot


def fill(template: str, **values: Any) -> str:
    """The page; equal values give equal pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["slot"] = slot
    return environment.get_template(template).render(**values)


def made(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the section on how it was made wants of a result or comparison."""
    tables = {"Environment": found.get("environment"), "Settings": found.get("settings")}
    return {
        "title": found["title"],
        "summary": found.get("summary"),
        "method": found.get("method"),
        "command": found.get("command"),
        "details": {
            caption: [(name, plain(value)) for name, value in rows.items()] for caption, rows in tables.items() if rows
        },
    }


def save(path: Path, page: str) -> Path:
    """Write the page, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(page.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
