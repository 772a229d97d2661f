"""The report in headless Chromium, on a desk and on a phone. Skipped where no Chromium is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evenhand.report.render import write_report
from tests.report.full_folder import full_folder

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
QUIET = ("quic", "background-networking", "component-update", "sync")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    *(f"--disable-{name}" for name in QUIET),
    "--window-size=1400,1000",
    "--virtual-time-budget=8000",
    "--dump-dom",
)
LONG_WORD = "a" * 150
WIDTHS_PX = (1280, 390, 320)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]

# The page stands in a frame of the wanted width; the script is outside it, since the page allows none.
FRAME = """<!doctype html><body style="margin:0"><pre id="found"></pre>
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><script>
const errors = []; window.addEventListener("error", event => errors.push(event.message));
document.getElementById("page").addEventListener("load", event => {{
  const page = event.target.contentDocument, width = page.documentElement.clientWidth, boxes = ".scroll, pre, svg";
  page.querySelectorAll("details").forEach(part => part.open = true);
  const outside = [...page.querySelectorAll("body *")].filter(part => {{
    const place = part.getBoundingClientRect();
    return !part.parentElement.closest(boxes) && place.width && (place.right > width + 1 || place.left < -1);
  }}).map(part => part.tagName + " " + part.textContent.slice(0, 60));
  const images = [...page.images];
  document.getElementById("found").textContent = JSON.stringify({{
    errors, outside, width, scroll: page.documentElement.scrollWidth, images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    unnamed: images.filter(image => !image.alt).length,
    scrollable: [...page.querySelectorAll(".scroll")].filter(box => getComputedStyle(box).overflowX !== "auto").length,
  }});
}});</script>"""


def seen(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What a browser finds in a page of this width."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(page.read_text())))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', shown, flags=re.DOTALL)
    assert match is not None
    content: dict[str, Any] = json.loads(html.unescape(match.group(1)))
    return content


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full report; one concept is a word that is longer than any screen is wide."""
    folder = full_folder(tmp_path_factory.mktemp("browser") / "run")
    plan = json.loads((folder / "plan.json").read_text())
    plan["prompts"][0] |= {"text": f"a portrait of <b>{LONG_WORD}", "concept": LONG_WORD}
    (folder / "plan.json").write_text(json.dumps(plan))
    write_report(folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_nothing_overflows_breaks_or_fails(page: Path, width: int, tmp_path: Path) -> None:
    found = seen(page, width, tmp_path)
    assert found["scroll"] <= found["width"] <= width
    assert found["outside"] == []
    assert found["errors"] == []
    assert found["images"] > 100
    assert (found["broken"], found["unnamed"], found["scrollable"]) == (0, 0, 0)


def test_a_page_that_overflows_is_found(page: Path, tmp_path: Path) -> None:
    """Control: the same page with a paragraph that is too wide and an image that is none."""
    spoilt = tmp_path / "spoilt.html"
    wide = '<p style="width:2000px">wide</p><img src="data:image/png;base64,AAAA">'
    spoilt.write_text(page.read_text().replace("<main>", f"<main>{wide}"))
    found = seen(spoilt, 390, tmp_path)
    assert found["scroll"] > found["width"]
    assert found["outside"] == ["P wide"]
    assert (found["broken"], found["unnamed"]) == (1, 1)
