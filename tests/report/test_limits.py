"""What was not shown is said from the fields of the results, and from their absence."""

from __future__ import annotations

from typing import Any

import pytest

from evenhand.evaluation.plan import Plan, parse_plan
from evenhand.report.limits import not_shown
from tests.folders import plan_row, prompt_row
from tests.report.test_charts import content_of, row

VERDICT = {
    "suite": "heldout",
    "attribute": "presentation",
    "arm": "shift",
    "verdict": "inconclusive",
    "sentence": "Nothing.",
    "caps": [],
}
AGREEMENT = {"attribute": "presentation", "arm": "base", "reader": "oracle", "other": "second", "how": "over images"}


def plan(*suites: str, **changes: Any) -> Plan:
    prompts = [prompt_row(suite, "c") for suite in ("heldout", *suites)]
    return parse_plan(plan_row(prompts, **changes), "plan")


def said(made: Plan, **changes: Any) -> str:
    return "\n".join(not_shown(made, content_of(changes.pop("estimates", []), **changes)))


def test_the_smallest_effect_is_the_results_then_the_plans_then_unknown() -> None:
    planned = plan(mde={"value": 0.234})
    assert "smaller than 0.12 on heldout" in said(planned, verdicts=[{**VERDICT, "mde": 0.12}])
    assert "change of a share of 0.23" in said(planned)
    assert "is not known: neither the plan nor the results" in said(plan())


def test_a_circular_reader_is_said_first() -> None:
    assert said(plan(training_reader="oracle")).startswith("Circular: oracle was used in training")
    assert "Circular" not in said(plan(training_reader="another"))


def test_readers_that_were_compared_are_named_and_a_lonely_one_is_said() -> None:
    compared = said(plan(), agreement=[{**AGREEMENT, "share": 0.934, "kappa": 0.8, "low": 0.7, "high": 0.9}])
    assert "oracle and second agree on 93 % of the base images, kappa 0.80 (0.70 to 0.90)" in compared
    assert "was not measured" not in compared
    assert "How often reader oracle is wrong was not measured" in said(plan())


def test_unread_images_are_said_in_both_arms_with_their_change() -> None:
    rows = [row("unread", "base", 0.01), row("unread", "adapted", 0.2), row("unread", "shift", 0.19)]
    assert "base 0.01, adapted 0.20 (change +0.19 (+0.09 to +0.29))" in said(plan(), estimates=rows)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"training_captions": None}, "Whether prompts occurred in training is not known"),
        ({"excluded": []}, "No prompt of the headline is a training caption"),
        (
            {"excluded": [{"prompt": {"text": "a portrait of x"}, "seeds": 3}]},
            "as captions: “a portrait of x”.",
        ),
        ({"seen": {"train": {"prompts": 5, "of": 20}}}, "Of the 20 train prompts, 5 were training captions"),
        ({"tier": "smoke"}, "no claim can rest on so few images"),
        ({"paired": False}, "not paired by seed"),
    ],
)
def test_what_a_plan_declares_is_said_and_otherwise_not(extra: dict[str, Any], sentence: str) -> None:
    paired = extra.get("paired", True)
    assert sentence in said(plan(**extra), paired=paired)
    assert sentence not in said(plan())


def test_suites_that_were_not_asked_are_named() -> None:
    assert "other wordings, styles and modifiers" in said(plan())
    assert "other wordings, styles and modifiers" not in said(plan("offtemplate"))


def test_concepts_that_stay_as_the_base_has_them_are_named_and_otherwise_not() -> None:
    alone = [
        {"attribute": "presentation", "concept": "*", "shares": [0.5, 0.5]},
        {"attribute": "presentation", "concept": "c", "shares": []},
    ]
    assert "No distance to target counts c:" in said(plan(targets=alone))
    assert "No distance to target counts" not in said(plan(targets=alone[:1]))


def test_a_plan_of_another_tool_may_use_these_keys_for_anything() -> None:
    said(plan(excluded="none", seen=[1], mde="small", suite=3))
