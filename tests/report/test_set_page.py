"""The page of an audit: whole, escaped, without network or script, with the figures of the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evenhand.report.set_page import PAGE_FILE, answer, share_text
from tests.report.page import Page
from tests.set_audit.whole import NASTY, audited, folder_of_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_pictures(tmp_path_factory.mktemp("set") / "pictures")


def page_of(folder: Path) -> Page:
    page = Page()
    page.feed((folder / PAGE_FILE).read_text())
    page.close()
    assert page._open == []
    return page


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out")
    content = audited(pictures, out)
    return page_of(out), content


def test_a_page_needs_nothing_else_and_runs_nothing(made: tuple[Page, dict[str, Any]]) -> None:
    page, _ = made
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in page.sources)
    assert page.handlers == []
    assert not {"script", "iframe", "link", "form", "object", "b>nurse"} & set(page.tags)


def test_what_a_set_calls_things_is_text_and_turns_nothing(made: tuple[Page, dict[str, Any]]) -> None:
    page, _ = made
    text = " ".join([*page.text, *page.spoken])
    assert NASTY in text
    assert "\u202e" not in text
    assert "pilot\\u202egnp.exe" in text
    assert "python data_recipes/audit.py <x>" in text


def test_the_figures_are_those_of_the_audit(made: tuple[Page, dict[str, Any]]) -> None:
    page, content = made
    text = "".join(page.text)
    for entry in content["shares"]:
        if entry["reader"] == "planted" and entry["concept"] is None:
            for value in entry["values"]:
                assert share_text(value["share"]) in text
    for finding in content["findings"]:
        assert finding["sentence"].replace("\u202e", "\\u202e") in text
    assert answer(content).replace("\u202e", "\\u202e") in text


def test_every_picture_has_words_for_those_who_do_not_see_it(made: tuple[Page, dict[str, Any]]) -> None:
    page, _ = made
    assert len(page.alts) > 20
    assert all(page.alts)


def test_a_page_of_real_people_shows_no_picture(pictures: Path, tmp_path: Path) -> None:
    audited(pictures, tmp_path, depicts="people")
    page = page_of(tmp_path)
    assert page.tags.count("img") == 0
    assert "they all <signed>" in "".join(page.text)
    assert "Missing is not zero" in "".join(page.text)


def test_a_page_without_a_target_judges_nothing(pictures: Path, tmp_path: Path) -> None:
    audited(pictures, tmp_path, declared=False)
    text = "".join(page_of(tmp_path).text)
    assert "None was declared" in text
    assert "missed" not in text.lower()


def test_a_share_is_in_percent_and_a_missing_one_a_dash() -> None:
    assert share_text(0.125) == "12.5\u00a0%"
    assert share_text(None) == "–"
