"""Every number that a report or a card snippet prints is in results.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evenhand.report.render import write_report
from tests.report.full_folder import full_folder
from tests.report.page import page_of

NUMBER = re.compile(r"\d+(?:\.\d+)?")
DIGEST = re.compile(r"\b[0-9a-f]{12,64}\b")
# What the templates say themselves: axes, and constants in sentences.
SAID_BY_TEMPLATES = {"0", "1", "25", "50", "75", "100", "0.00", "0.50", "1.00", "0.001", "0.000"}
# Quantities that are small, and are printed with a third digit; guards are held against margins as small as 0.02.
FINE = ("distance_sq", "js", "image_text", "near_duplicates", "copies", "training_similarity")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = full_folder(tmp_path_factory.mktemp("numbers") / "run")
    write_report(folder)
    return folder


def records(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from records(entry)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield "key", key
            yield from leaves(entry, key)
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry, name)
    else:
        yield name, value


def known_numbers(content: Any) -> set[str]:
    """Numbers of the JSON as a report may write them: two digits, three for p values, guards and what is small."""
    known = set(SAID_BY_TEMPLATES)
    for name, value in leaves(content):
        if isinstance(value, str):
            known |= set(NUMBER.findall(value))
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            known.add(str(abs(value)))
        else:
            known |= {f"{abs(value):.2f}", f"{abs(value):g}", str(abs(value))}
            known |= {f"{abs(value):.3f}"} if name.startswith("p") else set()
            known |= {f"{100 * value:.0f}"} if name in ("level", "share") else set()
    for record in records(content):
        if str(record.get("name")).startswith(FINE) or "margin" in record:
            found = [record.get(key) for key in ("value", "low", "high", "margin", "floor")]
            known |= {f"{abs(value):.3f}" for value in found if value is not None}
    return known


def strays(text: str, content: Any) -> list[str]:
    """Numbers of a text that the JSON does not have; digests may be shortened."""
    digests = {digest for _, value in leaves(content) if isinstance(value, str) for digest in DIGEST.findall(value)}
    for shown in set(DIGEST.findall(text)):
        if any(digest.startswith(shown) for digest in digests):
            text = text.replace(shown, " ")
    return sorted(set(NUMBER.findall(text)) - known_numbers(content))


@pytest.mark.parametrize("name", ["report.html", "report.md", "card_snippet.yaml"])
def test_every_printed_number_is_in_results_json(reported: Path, name: str) -> None:
    content = json.loads((reported / "results.json").read_text())
    page = page_of(reported)
    text = " ".join([*page.text, *page.spoken]) if name == "report.html" else (reported / name).read_text()
    assert len(set(NUMBER.findall(text))) > 30
    assert strays(text, content) == []


def test_a_number_from_elsewhere_is_found(reported: Path) -> None:
    content = json.loads((reported / "results.json").read_text())
    assert strays("fell from 0.77 to 7.31 of 987 images", {**content, "estimates": []})[-2:] == ["7.31", "987"]
