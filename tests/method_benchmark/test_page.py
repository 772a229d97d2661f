"""The page: who leads, who is tied, what is missing, what it cost; and a picture for each case."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenhand.method_benchmark.bars import Bar
from evenhand.method_benchmark.measured import Measured, measured
from evenhand.method_benchmark.page import Content, headline, markdown, plot_name, write_page
from evenhand.method_benchmark.standings import Standing, standing
from tests.method_benchmark.made import NUM_PROMPTS, a_run, drawn, estimate_row, the_benchmark

BLUE, RED = (0x1B, 0x49, 0x65), (0xC1, 0x12, 0x1F)
BARS = {
    "gap": Bar(case="occupations", says="gap", figure="rms_gap", suite="heldout", attribute="presentation", most=0.3),
    "tv": Bar(case="occupations", says="tv", figure="tv_bound", suite="heldout", attribute="presentation", most=0.2),
    "women": Bar(case="occupations", says="women", figure="share:woman", suite="heldout", least=0.4, most=0.6),
}
ESTIMATES = (
    estimate_row("share:woman", "base", 0.9),
    estimate_row("share:woman", "adapted", 0.5),
    estimate_row("image_text", "base", 0.81, attribute="tinytown_clip"),
    estimate_row("image_text", "adapted", 0.79, attribute="tinytown_clip"),
    estimate_row("diversity", "shift", -0.2),
)


def three_methods(home: Path) -> list[Measured]:
    runs = [a_run(home, "near", seed, 0.5, estimates=ESTIMATES, killed=seed == 1) for seed in range(3)]
    runs += [a_run(home, "also_near", 0, 0.5, passed=False, estimates=ESTIMATES)]
    runs += [a_run(home, "far", seed, 0.8, estimates=ESTIMATES) for seed in range(3)]
    runs += [a_run(home, "untrained", None, 0.75, estimates=ESTIMATES)]
    return [measured(run, BARS) for run in runs]


def content(home: Path, one: Standing, **changes: Any) -> Content:
    benchmark = the_benchmark(home, bars=BARS, **changes)
    missing = {"occupations, align, seed 0": "no luck", "market, curated, seed 0": "not done yet"}
    return Content(benchmark=benchmark, standings=(one,), missing=missing, commits={"abc": 8}, command="python x")


@pytest.fixture
def one(tmp_path: Path) -> Standing:
    return standing("occupations", three_methods(tmp_path), bars=BARS, level=0.95)


def line_of(page: str, name: str, section: str) -> str:
    part = page.split(f"### {section}")[1]
    return next(line for line in part.splitlines() if line.startswith(f"| {name} |"))


def test_the_page_says_who_leads_who_is_tied_which_guards_failed_and_how_many_trainings(
    tmp_path: Path, one: Standing
) -> None:
    page = markdown(content(tmp_path, one), tmp_path / "page.md")
    distances = page.split("## occupations")[1].split("###")[0]
    assert re.search(r"^\| near \| 3 \| ", distances, flags=re.MULTILINE)
    assert re.search(r"^\| also_near \| 1 \| ", distances, flags=re.MULTILINE)
    assert re.search(r"^\| untrained \| – \| ", distances, flags=re.MULTILINE)
    assert distances.count("**0.") == 1  # one is the nearest
    assert " ≈ |" in distances
    assert "tied with" in headline(one)
    leader = one.tables[0].entries[0].competitor
    said = "It held every guard" if leader == "near" else "the nearest: near"
    assert said in headline(one)
    assert "(failed 1 of 1)" in line_of(page, "fixed", "Guards")
    assert " †" in line_of(page, "fixed", "Guards")
    assert line_of(page, "all held", "Guards").count("| yes ") == 3


def test_what_is_missing_stands_with_its_case_and_in_front(tmp_path: Path, one: Standing) -> None:
    page = markdown(content(tmp_path, one), tmp_path / "page.md")
    assert "**2 of 3 runs are missing**" in page
    assert "- occupations, align, seed 0: no luck" in page.split("## occupations")[1]
    assert "market" not in page.split("## occupations")[1]
    not_run = {f"occupations, align, seed {seed}": "not done yet: a set" for seed in (1, 2)}
    grouped = markdown(replace(content(tmp_path, one), missing=not_run), tmp_path / "page.md")
    assert "**Missing here:**\n\n- not done yet: align, seed 1; align, seed 2\n" in grouped


def test_where_a_competitor_fails_most_is_told(tmp_path: Path, one: Standing) -> None:
    page = markdown(content(tmp_path, one), tmp_path / "page.md")
    far = next(entry for entry in one.tables[0].entries if entry.competitor == "far")
    told = ", ".join(f"{concept} {distance:.2f}" for concept, distance in far.furthest)
    assert "| furthest from the target | heldout: presentation |" in page
    assert f"| far | {told} |" in page


def test_what_is_left_out_by_choice_is_said_and_is_not_missing(tmp_path: Path, one: Standing) -> None:
    whole = markdown(content(tmp_path, one), tmp_path / "page.md")
    part = markdown(content(tmp_path, one, without=("occupations/curated-s1",)), tmp_path / "page.md")
    assert "by choice" not in whole
    assert "No part of it, by choice: occupations/curated-s1." in part
    assert "**2 of 2 runs are missing**" in part


def test_the_commits_that_the_runs_were_made_with_are_told(tmp_path: Path, one: Standing) -> None:
    made = replace(content(tmp_path, one), commits={"0123456789abcdef, changed": 7, None: 1})
    assert (
        "Trained with evenhand at 0123456789ab, changed (7), an installed package (1); in brackets the runs."
        in markdown(made, tmp_path / "page.md")
    )
    assert "Trained with evenhand at" not in markdown(replace(made, commits={None: 8}), tmp_path / "page.md")


def test_costs_are_told_with_the_budget_and_what_nobody_knows(tmp_path: Path, one: Standing) -> None:
    page = markdown(content(tmp_path, one), tmp_path / "page.md")
    near, far = line_of(page, "near", "Cost"), line_of(page, "far", "Cost")
    assert "≥ 700 (3 of 3 over the budget of 600)" in near
    assert "≥" not in far
    assert near.endswith("| 2.00 MB |")


def test_quality_and_bars_of_every_competitor_and_of_the_base(tmp_path: Path, one: Standing) -> None:
    page = markdown(content(tmp_path, one), tmp_path / "page.md")
    assert line_of(page, "base", "Quality").startswith("| base | 0.810 (0.710 to 0.910) | ")
    assert line_of(page, "near", "Quality").startswith("| near | 0.790 (0.690 to 0.890) | -0.200 ")
    women = next(line for line in page.splitlines() if line.startswith("| women (heldout) | 0.4 to 0.6 |"))
    assert women.count("0.500 (0.400 to 0.600), met |") == 4
    assert "0.900 (0.800 to 1.000), missed" in women
    gap = next(line for line in page.splitlines() if line.startswith("| gap (heldout) | at most 0.3 |"))
    far = next(entry for entry in one.tables[0].entries if entry.competitor == "far")
    assert far.rms.value is not None
    assert f" {far.rms.value * 2**0.5:.3f} (" in gap  # two shares: |f1 - f2| is the root of 2 times the distance
    tv = next(line for line in page.splitlines() if line.startswith("| tv (heldout) | at most 0.2 |"))
    assert f" {far.rms.value / 2**0.5:.3f} (" in tv  # two shares: half of |f1 - f2|


def test_where_ours_stands_is_said_in_front(tmp_path: Path) -> None:
    rng, ids = np.random.default_rng(0), [str(number) for number in range(NUM_PROMPTS)]
    first = [drawn("curated", seed, rng.normal(0.0, 0.01, NUM_PROMPTS), ids) for seed in range(3)]
    second = [drawn("distill", seed, rng.normal(0.4, 0.01, NUM_PROMPTS), ids) for seed in range(3)]
    found = standing("occupations", [*first, *second], bars={}, level=0.95)
    ahead, behind = "all: ahead; guards held: ahead", "all: behind curated"
    for ours, ours_in, method, said in (
        ("curated", None, "curated", ahead),
        ("distill", None, "distill", behind),
        ("distill", {"market": "curated"}, "distill", behind),
        ("distill", {"occupations": "curated"}, "curated", ahead),
    ):
        benchmark = the_benchmark(tmp_path, methods=("curated", "distill"), ours=ours, ours_in=ours_in)
        told = Content(benchmark=benchmark, standings=(found,), missing={}, commits={}, command="python x")
        page = markdown(told, tmp_path / "page.md")
        line = next(line for line in page.splitlines() if line.startswith(f"| occupations | {method} | 3 |"))
        assert said in line
        assert "all held" in line


def test_every_number_of_the_page_is_in_the_json(tmp_path: Path, one: Standing) -> None:
    write_page(content(tmp_path, one), tmp_path / "out" / "page.md")
    stored = json.loads((tmp_path / "out" / "page.json").read_text())
    page = (tmp_path / "out" / "page.md").read_text()
    (case,) = stored["cases"]
    values = [entry["rms"]["value"] for table in case["tables"] for entry in table["entries"]]
    assert all(f"{value:.3f} (" in page for value in values)
    assert case["bars"]["near"]["women"]["verdict"] == "met"
    assert case["quality"]["base"]["image-text score"]["value"] == 0.81
    assert case["guards"]["also_near"][0]["num_passed"] == 0
    assert [cost["at_least"] for cost in case["costs"]["near"]] == [False, True, False]
    assert stored["missing"]["occupations, align, seed 0"] == "no luck"


@pytest.mark.parametrize("passed", [True, False])
def test_a_cases_picture_is_red_where_a_guard_failed_and_nowhere_else(tmp_path: Path, passed: bool) -> None:
    runs = [measured(a_run(tmp_path, "near", seed, 0.5, passed=passed), {}) for seed in range(2)]
    found = standing("occupations", runs, bars={}, level=0.95)
    place = tmp_path / "out" / "page.md"
    write_page(content(tmp_path, found), place)
    assert f"({plot_name(place, 'occupations')})" in place.read_text()
    with Image.open(place.with_name("page_occupations.png")) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert bool((pixels == BLUE).all(axis=1).any()) is passed
    assert bool((pixels == RED).all(axis=1).any()) is not passed


def test_a_case_of_which_nothing_is_there_says_so(tmp_path: Path) -> None:
    found = standing("occupations", [], bars=BARS, level=0.95)
    write_page(content(tmp_path, found, ours="curated"), tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "Nothing was measured." in page
    assert "not measured" in page
    assert not list(tmp_path.glob("*.png"))
