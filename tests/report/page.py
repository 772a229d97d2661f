"""A report as a browser sees it: its tags, sources, texts and the attributes that are read aloud."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

HIDDEN = ("style", "script")
VOID = ("img", "meta", "br", "rect", "line", "circle", "polyline")


class Page(HTMLParser):
    """What is in an HTML file; ``tables`` holds the classes of what each table stands in."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.text: list[str] = []
        self.spoken: list[str] = []
        self.handlers: list[str] = []
        self.tables: list[str] = []
        self._open: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.sources += [value for name, value in given.items() if name in ("src", "href", "xlink:href", "action")]
        self.handlers += [name for name in given if name.startswith("on")]
        self.spoken += [value for name, value in given.items() if name in ("alt", "aria-label", "title", "data-l")]
        if tag == "img":
            self.alts.append(given.get("alt", ""))
        if tag == "table":
            self.tables.append(self._open[-1][1] if self._open else "")
        if tag not in VOID:
            self._open.append((tag, given.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1][0] not in HIDDEN:
            self.text.append(data)


def page_of(folder: Path) -> Page:
    """The page of a folder's report; every element is closed in the right order."""
    page = Page()
    page.feed((folder / "report.html").read_text())
    page.close()
    assert page._open == []
    return page
