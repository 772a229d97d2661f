"""scripts/benchmark_methods.py as a person runs it: a method and a baseline on tinytown, from the set to the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW_SEEDS = "suite.num_seeds={train:2,scene:2,explicit:1,fixed:1,unrelated:1}"
BAR = "_target_:evenhand.method_benchmark.bars.Bar,case:market"
SMALL = (
    "cases=[market]",
    f"+bars.summer={{{BAR},says:summer,figure:'share:summer',suite:scene,attribute:season,least:0.85}}",
    f"+bars.snow={{{BAR},says:snow,figure:shown,suite:fixed,concept:christmas market in sweden,least:0.93}}",
    "methods=[curated]",
    "arms=[prompt_rewrite]",
    "seeds=[0]",
    "num_processes=1",
    'of_arm={market/prompt_rewrite:["arm.suites=[train,scene]"]}',
    'build=["recipe.plan.images_per_concept=4","recipe.preserve.captions=[]","recipe.preserve.empty=1"]',
    'train=["train.steps=2","train.batch_size=2","train.preserve_batch_size=2","optim.warmup_steps=1"]',
    f'evaluate=["{FEW_SEEDS}","sampling.steps=2","scorer=none"]',
)


def start(home: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "EVENHAND_CACHE": str(home / "cache")}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark_methods.py"), *overrides],
        cwd=home,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_method_and_a_baseline_are_trained_measured_and_compared_once(tmp_path: Path) -> None:
    first = start(tmp_path, *SMALL, "page=docs/page.md")
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs" / "benchmark_methods"
    found = json.loads((tmp_path / "docs" / "page.json").read_text())
    assert found["missing"] == {}
    (case,) = found["cases"]
    scene = next(table for table in case["tables"] if table["primary"])
    assert (scene["suite"], scene["attribute"]) == ("scene", "season")
    names = {entry["competitor"] for entry in scene["entries"]}
    assert names == {"base", "curated", "prompt_rewrite"}
    page = (tmp_path / "docs" / "page.md").read_text()
    assert "](page_market.png)" in page
    assert (tmp_path / "docs" / "page_market.png").is_file()
    assert page.splitlines()[2].endswith("same noise.")
    bars = case["bars"]["curated"]
    assert bars["summer"]["interval"]["value"] is not None
    assert bars["snow"]["interval"]["value"] is not None
    assert case["quality"]["curated"]["unread images"]["value"] is not None
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}
    again = start(tmp_path, *SMALL)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")} == written


def test_a_page_of_what_is_not_there_yet_names_it(tmp_path: Path) -> None:
    done = start(tmp_path, *SMALL, "page_only=true")
    assert done.returncode == 0, done.stderr
    assert "not finished: market, curated, seed 0: not done yet: build the set of market, seed 0" in done.stderr
    assert "market: nothing was measured" in done.stdout
    page = (tmp_path / "runs" / "benchmark_methods" / "benchmark.md").read_text()
    assert "**2 of 2 runs are missing**" in page
    assert "page_only" not in page


def test_what_fails_is_named_its_neighbour_is_not_run_and_the_exit_code_says_so(tmp_path: Path) -> None:
    """Of two runs the one that is chosen, with a mistake that its own program refuses."""
    broken = [text for text in SMALL if not text.startswith("build=")]
    done = start(tmp_path, *broken, 'build=["recipe.plan.images_per_concept=0"]', "only=[market/curated]")
    assert done.returncode == 1
    assert "not finished: market, curated, seed 0: build the set" in done.stderr
    assert "images_per_concept must be >= 1" in done.stderr
    assert "market, prompt_rewrite: not done yet" in done.stderr
    assert not (tmp_path / "runs" / "benchmark_methods" / "market" / "prompt_rewrite").exists()


def test_a_mistake_ends_before_anything_is_started(tmp_path: Path) -> None:
    done = start(tmp_path, "methods=[magic]")
    assert done.returncode == 2
    assert "unknown 'magic'; choose from" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_methods_overrides_ends_before_anything_is_started(tmp_path: Path) -> None:
    done = start(tmp_path, *SMALL, 'of_method={market/curated:["train.stepps=3"]}')
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "train market, curated, seed 0" in line
    assert "stepps" in line
    assert list(tmp_path.iterdir()) == []
