from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evenhand.evaluation.plan import freeze_plan, load_plan, parse_plan, plan_json, plan_sha256
from tests.folders import plan_row, prompt_row

PROMPTS = [prompt_row("heldout", "mechanic"), prompt_row("explicit", "mechanic", expects={"presentation": "woman"})]


def test_a_plan_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    plan = parse_plan(plan_row(PROMPTS, tier="quick"), "test")
    digest = freeze_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan
    assert plan_sha256(tmp_path) == digest
    assert json.loads((tmp_path / "plan.json").read_text())["tier"] == "quick"


def test_a_frozen_plan_is_not_frozen_twice_and_another_is_refused(tmp_path: Path) -> None:
    plan = parse_plan(plan_row(PROMPTS), "test")
    freeze_plan(plan, tmp_path)
    before = (tmp_path / "plan.json").stat().st_mtime_ns
    freeze_plan(plan, tmp_path)
    assert (tmp_path / "plan.json").stat().st_mtime_ns == before
    other = parse_plan(plan_row(PROMPTS, margins={"explicit": 0.5}), "test")
    with pytest.raises(ValueError, match="different are margins"):
        freeze_plan(other, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2 is unknown"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"arms": ["base", "base"]}, "two names"),
        ({"primary": {"attribute": "skin", "suite": "heldout"}}, "primary attribute 'skin'"),
        ({"primary": {"attribute": "presentation", "suite": "scene"}}, "no prompt of the primary suite"),
        ({"prompts": [PROMPTS[0], PROMPTS[0]]}, "ids must differ"),
        ({"prompts": [prompt_row("heldout", "x", expects={"presentation": "cat"})]}, "presentation=cat"),
        ({"prompts": [prompt_row("anywhere", "x")]}, "unknown suite"),
        ({"targets": [{"attribute": "presentation", "concept": "*", "shares": [1.0]}]}, "does not fit"),
        ({"guard_rule": "hope"}, "guard_rule must be one of"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse_plan({**plan_row(PROMPTS), **changes}, "runs/x/plan.json")
    assert str(raised.value).startswith("runs/x/plan.json")


def test_a_plan_without_a_key_of_the_format_is_refused() -> None:
    row = plan_row(PROMPTS)
    del row["margins"]
    with pytest.raises(ValueError, match="missing .'margins'."):
        parse_plan(row, "plan.json")


def test_the_target_of_a_concept_wins_over_that_of_all() -> None:
    targets = [
        {"attribute": "presentation", "concept": "*", "shares": [0.5, 0.5]},
        {"attribute": "presentation", "concept": "midwife", "shares": [0.9, 0.1], "source": "a table"},
    ]
    plan = parse_plan(plan_row(PROMPTS, targets=targets), "test")
    assert plan.target("presentation", "midwife") == (0.9, 0.1)
    assert plan.target("presentation", "mechanic") == (0.5, 0.5)
    assert plan.target("skin", "mechanic") is None
    assert not plan.leaves_alone("skin", "mechanic")
    assert parse_plan(plan_json(plan), "test") == plan


def test_a_concept_that_stays_as_the_base_has_it_has_no_shares_in_place_of_those_of_all() -> None:
    targets = [
        {"attribute": "presentation", "concept": "*", "shares": [0.5, 0.5], "source": "x", "year": 2000},
        {"attribute": "presentation", "concept": "midwife", "shares": [], "source": "base"},
    ]
    plan = parse_plan(plan_row(PROMPTS, targets=targets), "test")
    assert plan.target("presentation", "midwife") is None
    assert plan.leaves_alone("presentation", "midwife")
    assert not plan.leaves_alone("presentation", "mechanic")
    assert plan_json(plan)["targets"] == targets
    assert parse_plan(plan_json(plan), "test") == plan
