"""Reads a page as a strict browser would."""

from __future__ import annotations

import re
from html.parser import HTMLParser

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


def stands_alone(html: str) -> None:
    """Asserts that the page loads nothing, that its ids are unique, and that no colour is left to matplotlib."""
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
    assert "~name" not in html, "a name's token was left in a drawing"


def harmless(html: str) -> Page:
    """Asserts that nothing in the page can run."""
    page = Page(html)
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    return page
