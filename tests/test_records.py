"""Records refuse what cannot be meant, and say what would be right."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import evenhand.records
from evenhand.records import SUITES, Attribute, Prompt, Reading, SubjectReading, Target, target_json


def attribute(**changes: object) -> Attribute:
    arguments: dict[str, object] = {
        "name": "glasses",
        "values": ["worn", "absent"],
        "forms": {"worn": "{} with glasses", "absent": "{} without glasses"},
        "words": {"worn": ["glasses"], "absent": []},
    }
    return Attribute(**{**arguments, **changes})  # type: ignore[arg-type]  # the wrong values are the point


def test_every_record_is_frozen_slotted_and_keyword_only() -> None:
    records = [value for _, value in inspect.getmembers(evenhand.records, dataclasses.is_dataclass)]
    assert len(records) >= 9
    for record in records:
        assert record.__dataclass_params__.frozen, record
        assert hasattr(record, "__slots__"), record
        assert all(field.kw_only for field in dataclasses.fields(record)), record


def test_an_attribute_from_a_config_holds_tuples() -> None:
    made = attribute()
    assert made.values == ("worn", "absent")
    assert made.words == {"worn": ("glasses",), "absent": ()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": ["worn"]}, "two or more different values"),
        ({"values": [True, False]}, "values must be text, got True; put it in quotes"),
        ({"values": ["worn", "worn"]}, "two or more different values"),
        ({"forms": {"worn": "{} with glasses"}}, "forms must name each of"),
        ({"words": {"worn": [], "absent": [], "broken": []}}, "words must name each of"),
        ({"forms": {"worn": "with glasses", "absent": "{}"}}, "form of worn needs one {}"),
        ({"forms": {"worn": "{} and {}", "absent": "{}"}}, "form of worn needs one {}"),
    ],
)
def test_an_attribute_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(**changes)


def test_a_target_without_shares_leaves_its_concept_alone() -> None:
    alone = Target(attribute="glasses", shares=(), concept="judge", source="base")
    assert alone.leaves_alone
    alone.check(attribute())
    assert not Target(attribute="glasses", shares=(0.25, 0.75)).leaves_alone
    assert target_json(alone) == {"attribute": "glasses", "concept": "judge", "shares": [], "source": "base"}


def test_a_target_needs_shares_that_sum_to_one() -> None:
    assert Target(attribute="glasses", shares=(0.25, 0.75)).source == "uniform"
    with pytest.raises(ValueError, match="sum to 1, got 0.9"):
        Target(attribute="glasses", shares=(0.4, 0.5))
    with pytest.raises(ValueError, match=">= 0"):
        Target(attribute="glasses", shares=(-0.5, 1.5))


def test_thirds_written_with_seven_digits_sum_to_one() -> None:
    assert sum(Target(attribute="skin", shares=(0.3333333, 0.3333333, 0.3333334)).shares) == pytest.approx(1.0)


def test_a_target_must_fit_its_attribute() -> None:
    Target(attribute="glasses", shares=(0.5, 0.5)).check(attribute())
    with pytest.raises(ValueError, match="for attribute skin"):
        Target(attribute="skin", shares=(0.5, 0.5)).check(attribute())
    with pytest.raises(ValueError, match="needs 2 shares"):
        Target(attribute="glasses", shares=(0.5, 0.25, 0.25)).check(attribute())


def test_a_prompt_of_an_unknown_suite_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown suite 'holdout'; choose one of train, heldout"):
        Prompt(id="a", text="a portrait of a judge", concept="judge", suite="holdout")
    assert [Prompt(id="a", text="t", concept="c", suite=suite).suite for suite in SUITES] == list(SUITES)


@pytest.mark.parametrize(("value", "unread"), [(None, None), ("worn", "no face")])
def test_a_reading_has_either_a_value_or_a_reason(value: str | None, unread: str | None) -> None:
    with pytest.raises(ValueError, match="reading has either"):
        SubjectReading(subject=0, attribute="glasses", value=value, probs=None, unread=unread)
    with pytest.raises(ValueError, match="judge-00 seed 3 arm base: exactly one"):
        Reading(
            prompt_id="judge-00",
            seed=3,
            arm="base",
            subject=0,
            reader="a",
            attribute="glasses",
            value=value,
            probs=None,
            unread=unread,
        )
