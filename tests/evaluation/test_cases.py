"""The cases of conf/experiment: build, training and measurement of each fit together. Cases are found on the disk."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import pytest

from evenhand.compose import Config, compose_config
from evenhand.evaluation.overlap import TrainingCaptions, text_key
from evenhand.evaluation.question import Question, ask
from evenhand.paths import conf_folder

EXPERIMENTS = {path.stem for path in (conf_folder() / "experiment").glob("*.yaml")}
CASES = sorted(name for name in EXPERIMENTS if {f"{name}_build", f"{name}_train"} <= EXPERIMENTS)
OWN_WORDINGS = [name for name in CASES if name != "demo"]  # the demo asks in the wordings that it trains


@lru_cache
def parts(case: str) -> tuple[Config, Config, Config]:
    """The three configs of a case."""
    return (
        compose_config("build", [f"experiment={case}_build"]),
        compose_config("train", [f"experiment={case}_train"]),
        compose_config("evaluate", [f"experiment={case}"]),
    )


@lru_cache
def recipe(case: str) -> Any:
    return parts(case)[0].build("recipe")


def captions(case: str) -> TrainingCaptions:
    """What the case's curated set would hold, as a training stores it."""
    made = recipe(case)
    explicit = [slot.explicit for slot in made.plan.slots] if made.preserve.explicit else []
    preserved = [*explicit, *(request.caption for request in made.requests)]
    texts = {"train": [slot.neutral for slot in made.plan.slots], "preserve": preserved}
    keys = {split: frozenset(map(text_key, found)) - {""} for split, found in texts.items()}
    return TrainingCaptions(by_split=keys, source="the recipe")


@lru_cache
def question(case: str) -> Question:
    config = parts(case)[2]
    return ask(
        config.build("evaluation"),
        attribute=config.build("attribute"),
        target=config.build("target"),
        suites=config.build("suite"),
        reader=config.build("reader"),
        tier=config.build("tier"),
        joint_target=config.build("joint_target"),
        captions=captions(case),
    )


def test_there_is_something_to_test() -> None:
    founding = {"occupations", "joint", "meetup", "market", "meatballs", "safe_for_work", "skin_60_25_15", "census"}
    assert founding <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_each_part_reads_what_the_one_before_wrote(case: str) -> None:
    build, train, evaluate = (config.plain for config in parts(case))
    assert train["data"] == build["run_folder"]
    assert evaluate["adapter"] == f"{train['run_folder']}/adapter"
    assert len({build["run_folder"], train["run_folder"], evaluate["run_folder"]}) == 3
    assert build["suite"]["concepts"] == evaluate["suite"]["concepts"]
    assert build["target"] == evaluate["target"]


@pytest.mark.parametrize("case", CASES)
def test_the_reader_that_judges_did_not_choose_the_pictures(case: str) -> None:
    build, _, evaluate = (config.plain for config in parts(case))
    assert build["reader"]["name"] != evaluate["reader"]["name"]


@pytest.mark.parametrize("case", OWN_WORDINGS)
def test_training_has_none_of_the_prompts_that_the_headline_counts(case: str) -> None:
    asked = question(case)
    assert asked.extra["excluded"] == []
    headline = [entry for entry in asked.prompts if entry.prompt.suite == asked.settings.primary_suite]
    assert len(headline) >= 6
    assert sum(entry.num_seeds for entry in headline) >= 48
    assert not [entry for entry in headline if captions(case).split_of(entry.prompt.text)]


@pytest.mark.parametrize("case", CASES)
def test_no_fact_and_no_unrelated_prompt_was_a_neutral_training_caption(case: str) -> None:
    guarded = [entry.prompt for entry in question(case).prompts if entry.prompt.suite in ("fixed", "unrelated")]
    assert guarded
    assert not [prompt.text for prompt in guarded if captions(case).split_of(prompt.text) == "train"]


@pytest.mark.parametrize("case", CASES)
def test_every_headline_concept_has_the_targets_shares(case: str) -> None:
    asked = question(case)
    wanted = {
        "market": (0.0, 1.0),
        "meatballs": (0.0, 1.0),
        "safe_for_work": (0.0, 1.0),
        "skin": (1 / 3, 1 / 3, 1 / 3),
        "skin_60_25_15": (0.6, 0.25, 0.15),
    }
    if case != "census":
        (shares,) = {target.shares for target in asked.targets if target.attribute == asked.attribute.name}
        assert shares == pytest.approx(wanted.get(case, (0.5, 0.5)))


def test_joint_cells_are_filled_alike_and_asked_for_alike() -> None:
    counts = Counter((slot.concept, *slot.labels.values()) for slot in recipe("joint").plan.slots)
    assert set(counts.values()) == {4}
    assert len(counts) == 20 * 6
    (joint,) = [target for target in question("joint").targets if "×" in target.attribute]
    assert joint.shares == pytest.approx((1 / 6,) * 6)


def test_groups_are_mixed_place_by_place() -> None:
    """Every combination of three people as often as every other: no place says anything of the others."""
    counts = Counter(tuple(slot.labels.values()) for slot in recipe("meetup").plan.slots)
    assert set(counts.values()) == {12}
    assert len(counts) == 8


def test_the_census_decides_how_many_are_pictured_and_what_is_not_in_it_is_left_alone() -> None:
    counts = Counter((slot.concept, slot.labels["presentation"]) for slot in recipe("census").plan.slots)
    # conf/target/us_census_2000.yaml by hand: 90507 of 2323077 mechanics, 3505260 of 3908663 nurses
    assert counts["mechanic", "woman"] in (1, 2)
    assert counts["nurse", "woman"] in (35, 36)
    targets = {target.concept: target.shares for target in question("census").targets}
    assert targets["mechanic"][0] == pytest.approx(90507 / 2323077)
    assert targets["*"] == ()


def test_what_is_somewhere_else_is_a_fact() -> None:
    facts = {entry.prompt.concept for entry in question("market").prompts if entry.prompt.suite == "fixed"}
    assert {"christmas market in germany", "christmas market in sweden", "christmas market"} <= facts
    assert "italian meatballs" in {e.prompt.concept for e in question("meatballs").prompts if e.prompt.suite == "fixed"}
