from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest

from evenhand.compose import compose_config
from evenhand.evaluation.suites import PlannedPrompt, Suites
from evenhand.evaluation.tiers import Tier, WholeSuite, in_order
from evenhand.paths import conf_folder
from evenhand.records import Prompt

TIERS = ("smoke", "quick", "standard", "certify")
# Pairs of images as the protocol states them: prompts x seeds of its rows, summed by hand.
MANY_SEEDS = "benchmark"  # for comparisons; no part of a bigger tier
PAIRS = {MANY_SEEDS: 3520, "smoke": 24, "quick": 260, "standard": 1120, "certify": 2400}
# Suites of a single case, with its attribute: they have a few prompts, and are measured whole.
CASE_SUITES = {
    "tinytown_census": "presentation",
    "tinytown_market": "season",
    "tinytown_meatballs": "sauce",
    "tinytown_meetup": "presentation",
    "tinytown_rock_fans": "print",
}
ATTRIBUTE_OF = {"sd_markets": "season", "sd_meatballs": "sauce", **CASE_SUITES}
TIERED_SUITES = sorted(
    path.stem
    for path in (conf_folder() / "suite").glob("*.yaml")
    if not path.stem.endswith(("_demo", "_smoke")) and path.stem not in CASE_SUITES
)


@lru_cache
def tier_of(name: str) -> Tier | WholeSuite:
    built: Tier | WholeSuite = compose_config("program", [f"+tier={name}"]).build("tier")
    return built


@lru_cache
def suite_of(name: str) -> tuple[Suites, list[PlannedPrompt]]:
    config = compose_config("evaluate", [f"suite={name}", f"attribute={ATTRIBUTE_OF.get(name, 'presentation')}"])
    suites, attribute = config.build("suite"), config.build("attribute")
    return suites, suites.prompts({attribute.name: attribute})


def prompt(suite: str, concept: str, wording: int = 0, value: str = "") -> PlannedPrompt:
    text = f"{wording} {value} {concept}"
    entry = Prompt(id=f"{suite}-{concept}-{value}-{wording}", text=text, concept=concept, suite=suite)
    return PlannedPrompt(prompt=entry, num_seeds=1, wording=wording)


def texts(entries: Sequence[PlannedPrompt]) -> list[str]:
    return [" ".join(entry.prompt.text.split()) for entry in entries]


def test_there_are_suites_to_test() -> None:
    assert {"tinytown", "stable_diffusion", "sd_markets", "sd_meatballs"} <= set(TIERED_SUITES)


@pytest.mark.parametrize("tier", [*TIERS, MANY_SEEDS])
def test_tinytown_makes_exactly_the_pairs_of_the_protocol(tier: str) -> None:
    suites, prompts = suite_of("tinytown")
    choice = tier_of(tier).choose(prompts, shared_rows=suites.shared_rows)
    assert sum(entry.num_seeds for entry in choice.prompts) == PAIRS[tier]
    assert sum(row.prompts * row.seeds for row in choice.rows) == PAIRS[tier]


@pytest.mark.parametrize("suite", CASE_SUITES)
def test_the_suite_of_a_single_case_is_measured_whole_and_a_tier_that_it_cannot_fill_is_refused(suite) -> None:
    suites, prompts = suite_of(suite)
    whole = tier_of("suite").choose(prompts, shared_rows=suites.shared_rows)
    assert {entry.prompt.id for entry in whole.prompts} == {entry.prompt.id for entry in prompts}
    with pytest.raises(ValueError, match=r"tier certify wants 80 prompts .* choose a smaller tier or tier=suite"):
        tier_of("certify").choose(prompts, shared_rows=suites.shared_rows)


@pytest.mark.parametrize("suite", TIERED_SUITES)
@pytest.mark.parametrize("tier", [*TIERS, MANY_SEEDS])
def test_every_suite_fills_every_tier(suite: str, tier: str) -> None:
    suites, prompts = suite_of(suite)
    choice = tier_of(tier).choose(prompts, shared_rows=suites.shared_rows)
    assert sum(entry.num_seeds for entry in choice.prompts) >= PAIRS[tier]
    assert all(row.prompts == row.wanted for row in choice.rows)


@pytest.mark.parametrize("suite", TIERED_SUITES)
def test_a_smaller_tier_is_a_part_of_a_bigger_one(suite: str) -> None:
    suites, prompts = suite_of(suite)
    chosen = [
        {entry.prompt.id for entry in tier_of(tier).choose(prompts, shared_rows=suites.shared_rows).prompts}
        for tier in TIERS
    ]
    assert all(small < big for small, big in pairwise(chosen))


@pytest.mark.parametrize("suite", TIERED_SUITES)
def test_half_of_the_neutral_prompts_are_of_concepts_that_training_never_names(suite: str) -> None:
    suites, prompts = suite_of(suite)
    choice = tier_of("standard").choose(prompts, shared_rows=suites.shared_rows)
    counts = Counter(entry.prompt.suite for entry in choice.prompts)
    assert counts["heldout"] == counts["train"] == 20
    by_concept = Counter(entry.prompt.concept for entry in choice.prompts if entry.prompt.suite == "heldout")
    listed = {entry.prompt.concept for entry in prompts if entry.prompt.suite == "heldout"}
    assert max(by_concept.values()) - min(by_concept.values()) <= 1
    assert len(by_concept) == min(20, len(listed))


@pytest.mark.parametrize("suite", TIERED_SUITES)
def test_every_value_is_asked_for_equally_often_in_explicit_prompts(suite: str) -> None:
    suites, prompts = suite_of(suite)
    choice = tier_of("quick").choose(prompts, shared_rows=suites.shared_rows)
    explicit = [entry.prompt for entry in choice.prompts if entry.prompt.suite == "explicit"]
    attribute = ATTRIBUTE_OF.get(suite, "presentation")
    assert set(Counter((prompt.expects or {})[attribute] for prompt in explicit).values()) == {5}


def test_the_order_by_hand() -> None:
    """Two held-out and three training concepts, two wordings: homes take turns, then concepts; wordings move on."""
    rows = [prompt("train", concept, wording) for concept in "xyz" for wording in (0, 1)]
    rows += [prompt("heldout", concept, wording) for concept in "ab" for wording in (0, 1)]
    order = texts(in_order(rows, ("heldout", "train")))
    assert order == ["0 a", "0 x", "1 b", "1 y", "1 a", "0 z", "0 b", "1 x", "0 y", "1 z"]


def test_all_values_of_an_explicit_wording_stay_together() -> None:
    rows = [prompt("explicit", concept, value=value) for concept in "ab" for value in ("man", "woman")]
    assert texts(in_order(rows, ("explicit",))) == ["0 man a", "0 woman a", "0 man b", "0 woman b"]


def test_a_row_that_must_be_filled_and_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="tier quick wants 20 prompts of heldout and train, the suite has 1"):
        tier_of("quick").choose([prompt("heldout", "pilot")], shared_rows={})


def test_an_optional_row_takes_what_there_is_and_says_so() -> None:
    rows = {"target": {"prompts": 1, "seeds": 2}, "fixed": {"prompts": 3, "seeds": 4, "optional": True}}
    tier = Tier(name="t", rows=rows, audit_pairs=0)
    choice = tier.choose([prompt("heldout", "pilot"), prompt("fixed", "pyladies")], shared_rows={})
    assert [(row.row, row.wanted, row.prompts, row.seeds) for row in choice.rows] == [
        ("target", 1, 1, 2),
        ("fixed", 3, 1, 4),
    ]
    assert [entry.num_seeds for entry in choice.prompts] == [2, 4]
    assert [row.row for row in tier.choose([prompt("heldout", "pilot")], shared_rows={}).rows] == ["target"]


def test_suites_that_share_a_row_take_turns_in_it() -> None:
    rows = {
        "target": {"prompts": 1, "seeds": 1},
        "groups": {"prompts": 3, "seeds": 8},
        "fixed": {"prompts": 9, "seeds": 9},
    }
    prompts = [
        prompt("heldout", "pilot"),
        *(prompt("groups", concept) for concept in "abc"),
        prompt("fixed", "pyladies"),
    ]
    choice = Tier(name="t", rows=rows, audit_pairs=0).choose(prompts, shared_rows={"groups": ["groups", "fixed"]})
    assert [(entry.prompt.concept, entry.num_seeds) for entry in choice.prompts] == [
        ("pilot", 1),
        ("a", 8),
        ("b", 8),
        ("pyladies", 8),
    ]


def test_without_a_tier_the_suite_stays_as_it_is() -> None:
    suites, prompts = suite_of("tinytown_demo")
    tier = tier_of("suite")
    assert tier.name is None
    assert list(tier.choose(prompts, shared_rows=suites.shared_rows).prompts) == prompts


def test_only_certify_asks_for_an_audit() -> None:
    assert {name: tier_of(name).audit_pairs for name in TIERS} == {
        "smoke": 0,
        "quick": 0,
        "standard": 0,
        "certify": 100,
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"heldout": {"prompts": 1, "seeds": 1}}, "unknown row 'heldout'"),
        ({"fixed": {"prompts": 1, "seeds": 1}}, "no row 'target'"),
        ({"target": {"prompts": 1}}, "seeds"),
        ({"target": {"prompts": 0, "seeds": 1}}, "prompts >= 1"),
    ],
)
def test_a_tier_that_cannot_be_is_refused(rows: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tier(name="t", rows=rows, audit_pairs=0)


def test_every_tier_has_its_file() -> None:
    names = {path.stem for path in Path(conf_folder() / "tier").glob("*.yaml")}
    assert names == {*TIERS, MANY_SEEDS, "suite"}
    assert all(tier_of(name).name == name for name in (*TIERS, MANY_SEEDS))
