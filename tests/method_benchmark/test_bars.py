"""What runs reach of a bar: readings with known truth through the real analysis, and the bars of conf/experiment."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.results import analyse_folder, write_results
from evenhand.analysis.tables import ReadingTable
from evenhand.compose import compose_config
from evenhand.evaluation.folder import load_readings
from evenhand.evaluation.plan import JOINT, load_plan
from evenhand.evaluation.question import Question, ask
from evenhand.files import read_json
from evenhand.method_benchmark.bars import (
    DRIFT,
    GUARD,
    MET,
    MET_UNSURE,
    MISSED,
    RMS_GAP,
    UNKNOWN,
    WORST_SHARE,
    Bar,
    Part,
    parts_of,
    reached,
    verdict,
)
from evenhand.method_benchmark.plan import Benchmark
from evenhand.stats.intervals import Interval
from tests.folders import drawn_readings, plan_row, prompt_row, write_folder

JOBS = [prompt_row("heldout", f"job{number}") for number in range(8)]
FACTS = [prompt_row("fixed", name, number=n, expects={"presentation": "woman"}) for name in "xy" for n in range(4)]
PROMPTS = [*JOBS, *FACTS]


def a_bar(**changes: Any) -> Bar:
    settings: dict[str, Any] = {
        "case": "occupations", "says": "it", "figure": "share:woman", "suite": "heldout",
        "attribute": "presentation", "most": 0.6,
    }  # fmt: skip
    return Bar(**(settings | changes))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Half women where base had 90 %; of the facts, x keeps its women and y loses 60 % of them."""
    base = {row["id"]: 0.9 if row["suite"] == "heldout" else 1.0 for row in PROMPTS}
    adapted = {
        row["id"]: 0.5 if row["suite"] == "heldout" else 1.0 if row["concept"] == "x" else 0.4 for row in PROMPTS
    }
    rng = np.random.default_rng(0)
    readings = drawn_readings(PROMPTS, {"base": base, "adapted": adapted}, num_seeds=32, rng=rng)
    write_folder(tmp_path, plan_row(PROMPTS), readings)
    write_results(analyse_folder(tmp_path), tmp_path)
    return tmp_path


def of(home: Path, bar: Bar) -> dict[str, tuple[Part, ...]]:
    table = ReadingTable(load_plan(home), load_readings(home))
    return parts_of(bar, table, read_json(home / "results.json"))


def shares_of(home: Path, arm: str, where: str) -> float:
    """The share of women among the readings of prompts whose id begins so, by counting."""
    rows = [json.loads(line) for line in (home / "readings.jsonl").read_text().splitlines()]
    values = [row["value"] == "woman" for row in rows if row["arm"] == arm and row["prompt_id"].startswith(where)]
    return sum(values) / len(values)


def test_an_estimate_is_that_of_results_json_for_both_arms(home: Path) -> None:
    found = of(home, a_bar())
    for arm in ("base", "adapted"):
        ((interval, target),) = found[arm]
        assert interval.value == pytest.approx(shares_of(home, arm, "heldout"))
        assert interval.low is not None
        assert interval.low < shares_of(home, arm, "heldout")
        assert target is None


def test_shown_of_a_concept_is_of_its_prompts_alone(home: Path) -> None:
    for concept in "xy":
        bar = a_bar(figure="shown", suite="fixed", concept=concept, attribute=None, most=None, least=0.93)
        ((interval, _),) = of(home, bar)["adapted"]
        assert interval.value == pytest.approx(shares_of(home, "adapted", f"fixed-{concept}"))
        assert verdict(bar, interval) == (MISSED if concept == "y" else MET)
    assert of(home, a_bar(figure="shown", suite="fixed", concept="z", attribute=None))["adapted"] == ()


def test_the_worst_share_is_made_of_shares_over_all_trainings(home: Path) -> None:
    bar = a_bar(figure=WORST_SHARE, most=0.05)
    parts = of(home, bar)["adapted"]
    assert [part.target for part in parts] == [0.5, 0.5]
    one = reached(bar, [parts], level=0.95)
    assert one.interval.value == pytest.approx(abs(shares_of(home, "adapted", "heldout") - 0.5))
    # 0.62 and 0.42 are 0.12 and 0.08 off, together 0.02: noise of single trainings is no distance of the method
    shares = [[Part(Interval(share, share - 0.01, share + 0.01, ""), 0.5)] for share in (0.62, 0.42)]
    both = reached(bar, shares, level=0.95)
    assert both.interval.value == pytest.approx(0.02)
    assert (both.verdict, both.num_trainings) == (MET_UNSURE, 2)
    assert both.interval.low == 0.0


def test_a_change_and_a_guard_have_no_figure_of_the_base(home: Path) -> None:
    change = of(home, a_bar(figure="shown", suite="fixed", attribute=None, arm="shift", most=None, least=-0.02))
    assert list(change) == ["adapted"]
    fall = shares_of(home, "adapted", "fixed") - shares_of(home, "base", "fixed")
    assert change["adapted"][0].interval.value == pytest.approx(fall)
    guard = of(home, a_bar(figure=GUARD + "fixed", suite="fixed", arm="shift", most=None, low=-0.02))
    assert guard["adapted"][0].interval.value == pytest.approx(fall)
    assert of(home, a_bar(figure=RMS_GAP)) == {}


def test_drift_is_a_part_of_what_two_seeds_differ_by(home: Path) -> None:
    row = {"suite": "unrelated", "concept": None, "attribute": "features", "how": "cosine"}
    estimates = [
        {**row, "name": "similarity", "arm": "shift", "value": 0.9, "low": 0.88, "high": 0.92},
        {**row, "name": "similarity_yardstick", "arm": "base", "value": 0.6, "low": None, "high": None},
    ]
    table = ReadingTable(load_plan(home), load_readings(home))
    bar = a_bar(figure=DRIFT, suite="unrelated", arm="shift", most=0.3333)
    ((interval, _),) = parts_of(bar, table, {"estimates": estimates})["adapted"]
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.25, 0.2, 0.3))
    assert parts_of(bar, table, {"estimates": estimates[:1]})["adapted"] == ()


@pytest.mark.parametrize(
    ("ends", "interval", "said"),
    [
        ({"most": 0.1}, (0.05, 0.02, 0.08), MET),
        ({"most": 0.1}, (0.05, 0.02, 0.12), MET_UNSURE),
        ({"most": 0.1}, (0.05, None, None), MET_UNSURE),
        ({"most": 0.1}, (0.15, 0.05, 0.25), MISSED),
        ({"most": 0.1}, (None, None, None), UNKNOWN),
        ({"least": 0.4, "most": 0.6}, (0.3, 0.2, 0.5), MISSED),
        ({"least": -0.01, "low": -0.02}, (0.0, -0.015, 0.01), MET),
        ({"least": -0.01, "low": -0.02}, (0.0, -0.03, 0.03), MISSED),
        ({"least": -0.01, "low": -0.02}, (0.0, None, None), MISSED),
    ],
)
def test_a_bar_is_met_by_its_value_and_where_asked_by_its_interval(
    ends: dict[str, float], interval: tuple[float | None, ...], said: str
) -> None:
    bar = Bar(case="market", says="it", figure="tv", suite="scene", **ends)
    value, low, high = interval
    assert verdict(bar, Interval(value, low, high, "")) == said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"most": None}, "needs least, most, low or high"),
        ({"least": 0.7}, "least is 0.7, above the 0.6"),
        ({"figure": WORST_SHARE, "attribute": None}, "worst_share needs an attribute"),
        ({"figure": RMS_GAP, "arm": "shift"}, "rms_gap is of the competitor itself"),
        ({"figure": DRIFT}, "drift is a change"),
    ],
)
def test_a_bar_that_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_bar(**changes)


def test_a_name_that_fits_several_attributes_asks_which(home: Path) -> None:
    results = read_json(home / "results.json")
    row = next(row for row in results["estimates"] if row["name"] == "share:woman" and row["concept"] is None)
    results["estimates"].append({**row, "attribute": "skin", "arm": "base"})
    with pytest.raises(ValueError, match="name the attribute"):
        parts_of(a_bar(attribute=None), ReadingTable(load_plan(home), load_readings(home)), results)


@lru_cache
def the_bars() -> dict[str, Bar]:
    benchmark = compose_config("benchmark_methods", ["experiment=benchmark"]).construct(Benchmark)
    return dict(benchmark.bars)


@lru_cache
def question(case: str) -> Question:
    config = compose_config("evaluate", [f"experiment={case}"])
    return ask(
        config.build("evaluation"),
        attribute=config.build("attribute"),
        target=config.build("target"),
        suites=config.build("suite"),
        reader=config.build("reader"),
        tier=config.build("tier"),
        joint_target=config.build("joint_target"),
    )


@pytest.mark.parametrize("name", sorted(the_bars()))
def test_a_bar_of_the_benchmark_asks_for_what_its_case_measures(name: str) -> None:
    bar = the_bars()[name]
    asked = question(bar.case)
    prompts = [entry.prompt for entry in asked.prompts if entry.prompt.suite == bar.suite]
    assert prompts
    assert bar.concept is None or bar.concept in {prompt.concept for prompt in prompts}
    names = {asked.attribute.name, "features", *(JOINT.join(joint) for joint in asked.settings.joints)}
    assert bar.attribute is None or bar.attribute in names
    if bar.figure.startswith(GUARD):
        assert bar.figure.removeprefix(GUARD) in asked.settings.margins
    if bar.figure.startswith(("share:", "subject_share:")):
        assert bar.figure.partition(":")[2] in asked.attribute.values
    if bar.figure == RMS_GAP:
        assert len(asked.attribute.values) == 2


@pytest.mark.parametrize("figure", ["rms_gap", "tv_bound"])
def test_a_figure_of_the_table_needs_an_attribute_and_a_whole_suite(figure: str) -> None:
    for wrong in ({}, {"attribute": "skin", "concept": "nurse"}, {"attribute": "skin", "arm": "shift"}):
        with pytest.raises(ValueError, match=figure):
            Bar(case="skin", says="it", figure=figure, suite="heldout", most=0.1, **wrong)
