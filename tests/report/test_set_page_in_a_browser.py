"""The page of an audit in headless Chromium, on a desk and on a phone. Skipped where no Chromium is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenhand.report.set_page import PAGE_FILE
from tests.report.test_in_a_browser import CHROMIUM, WIDTHS_PX, seen
from tests.set_audit.whole import audited, folder_of_pictures

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One concept is a word that is longer than any screen is wide."""
    folder = tmp_path_factory.mktemp("browser")
    audited(folder_of_pictures(folder / "pictures"), folder / "out")
    return folder / "out" / PAGE_FILE


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_nothing_overflows_breaks_or_fails(page: Path, width: int, tmp_path: Path) -> None:
    found = seen(page, width, tmp_path)
    assert found["scroll"] <= found["width"] <= width
    assert found["outside"] == []
    assert found["errors"] == []
    assert found["images"] > 20
    assert (found["broken"], found["unnamed"], found["scrollable"]) == (0, 0, 0)
