"""The suites of conf/suite hold what they say: enough prompts, neutral ones, and nothing that training shows."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from evenhand.captions.leaks import attribute_leaks, heldout_leaks
from evenhand.captions.templates import concepts_of
from evenhand.compose import compose_config
from evenhand.evaluation.overlap import text_key
from evenhand.evaluation.suites import Suites
from evenhand.files import sha256_json
from evenhand.paths import conf_folder, model_path
from evenhand.records import Attribute, Prompt

SUITES = sorted(path.stem for path in (conf_folder() / "suite").glob("*.yaml"))
FULL = [name for name in SUITES if not name.startswith("tinytown_")]  # those are of a case each, without tiers
ATTRIBUTE_OF = {
    "sd_markets": "season",
    "sd_meatballs": "sauce",
    "tinytown_market": "season",
    "tinytown_meatballs": "sauce",
    "tinytown_rock_fans": "print",
}
TARGET_OF = {"sd_markets": "summer", "sd_meatballs": "lingonberry"}
OPEN = ("train", "heldout", "offtemplate", "groups", "unrelated")
TINYTOWN_TOKENS, CLIP_WORDS = 24, 40  # 24 tokens with both marks; CLIP reads 77, and a word is seldom more than two
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "suites.json"


@lru_cache
def suite_of(name: str) -> tuple[Suites, Attribute, list[Prompt]]:
    config = compose_config("evaluate", [f"suite={name}", f"attribute={ATTRIBUTE_OF.get(name, 'presentation')}"])
    suites, attribute = config.build("suite"), config.build("attribute")
    return suites, attribute, [entry.prompt for entry in suites.prompts({attribute.name: attribute})]


def contents() -> dict[str, str]:
    """The sha256 of each suite's prompts, by name and version."""
    found = {}
    for name in SUITES:
        suites, _, prompts = suite_of(name)
        rows = [[prompt.id, prompt.text, prompt.suite, dict(prompt.expects or {})] for prompt in prompts]
        found[f"{suites.name} {suites.version}"] = sha256_json(rows)
    return found


def write_golden() -> None:
    GOLDEN.write_text(json.dumps({**json.loads(GOLDEN.read_text()), **contents()}, indent=2) + "\n")


def test_a_suite_that_has_changed_has_another_version() -> None:
    """Results name a suite and its version, so these must mean the same prompts for ever.

    For a new version: python -c "from tests.evaluation.test_conf_suites import *; write_golden()"
    """
    golden = json.loads(GOLDEN.read_text())
    changed = [name for name, digest in contents().items() if golden.get(name) != digest]
    assert not changed, f"other prompts than before: {changed}; raise their version"


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_named_as_its_file(name: str) -> None:
    suites, _, _ = suite_of(name)
    assert suites.name == name
    assert suites.version is not None


@pytest.mark.parametrize("name", FULL)
def test_a_full_suite_has_enough_of_every_kind(name: str) -> None:
    _, attribute, prompts = suite_of(name)
    counts = Counter(prompt.suite for prompt in prompts)
    assert counts["train"] + counts["heldout"] >= 80
    assert min(counts["offtemplate"], counts["explicit"], counts["unrelated"]) >= 20
    assert counts["unrelated"] >= 40
    assert counts["fixed"] >= 9
    assert counts["groups"] >= 9 or name in ATTRIBUTE_OF
    facts = {
        prompt.concept for prompt in prompts if prompt.suite == "fixed" and attribute.name in (prompt.expects or {})
    }
    assert facts


@pytest.mark.parametrize("name", SUITES)
def test_no_neutral_prompt_names_a_value(name: str) -> None:
    _, attribute, prompts = suite_of(name)
    pyladies = [prompt for prompt in prompts if prompt.suite in OPEN and "pyladies" not in prompt.concept]
    assert not attribute_leaks([prompt.text for prompt in pyladies if prompt.suite != "unrelated"], [attribute])


@pytest.mark.parametrize("name", SUITES)
def test_no_prompt_of_a_training_concept_names_a_heldout_one(name: str) -> None:
    lists = compose_config("evaluate", [f"suite={name}"]).plain["suite"]["concepts"]
    texts = [prompt.text for prompt in suite_of(name)[2] if prompt.suite == "train"]
    assert not heldout_leaks(texts, concepts_of(lists["heldout"], what="heldout"))


@pytest.mark.parametrize("name", FULL)
def test_no_text_stands_in_two_suites(name: str) -> None:
    homes: dict[str, set[str]] = {}
    for prompt in suite_of(name)[2]:
        homes.setdefault(text_key(prompt.text), set()).add(prompt.suite)
    assert {text: suites for text, suites in homes.items() if len(suites) > 1} == {}


@pytest.mark.parametrize("name", sorted(TARGET_OF))
def test_the_targets_of_scenes_fit_their_attributes(name: str) -> None:
    config = compose_config("evaluate", [f"attribute={ATTRIBUTE_OF[name]}", f"target={TARGET_OF[name]}"])
    attribute = config.build("attribute")
    (target,) = config.build("target").targets(attribute)
    assert dict(zip(attribute.values, target.shares, strict=True))[TARGET_OF[name]] == 1.0
    assert "uniform" not in target.source


def test_tinytowns_text_encoder_reads_every_prompt_whole() -> None:
    tokenizer = Tokenizer.from_file(f"{model_path('evenhand:tinytown/base')}/tokenizer/tokenizer.json")
    for attribute in ("presentation", "skin", "glasses", "headwear"):
        config = compose_config("evaluate", ["suite=tinytown", f"attribute={attribute}"])
        named = config.build("attribute")
        texts = [entry.prompt.text for entry in config.build("suite").prompts({named.name: named})]
        assert max(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts) + 2 <= TINYTOWN_TOKENS


@pytest.mark.parametrize("name", [name for name in FULL if name != "tinytown"])
def test_clip_reads_every_prompt_whole(name: str) -> None:
    assert max(len(text_key(prompt.text).split()) for prompt in suite_of(name)[2]) <= CLIP_WORDS


def test_nothing_of_tinytowns_suite_was_a_training_caption_but_training_prompts() -> None:
    """Captions of the recipe, explicit and preserved ones included; the demo's suite is the control: it shares many."""
    recipe = compose_config("build", ["suite=tinytown"]).plain["recipe"]
    plan = compose_config("build", ["suite=tinytown"]).build("recipe").plan
    captions = {*(slot.neutral for slot in plan.slots), *(slot.explicit for slot in plan.slots)}
    captions |= set(recipe["preserve"]["captions"])
    keys = {text_key(caption) for caption in captions}

    def shared(name: str) -> Counter[str]:
        return Counter(prompt.suite for prompt in suite_of(name)[2] if text_key(prompt.text) in keys)

    assert set(shared("tinytown")) == {"train"}
    assert {"train", "explicit", "unrelated", "groups"} <= set(shared("tinytown_demo"))
    assert "heldout" not in shared("tinytown_demo")


def test_the_founding_cases_are_there() -> None:
    concepts = {name: {prompt.concept for prompt in suite_of(name)[2]} for name in FULL}
    people = {"flight attendant", "mechanic", "nurse", "doctor", "ceo", "python developer"}
    groups = {"python developers meetup", "pycon ghana", "pyladies meetup", "king of sweden in 1750"}
    assert people | groups <= concepts["stable_diffusion"]
    assert {"swedish meatballs", "italian meatballs"} <= concepts["sd_meatballs"]
    assert "australia" in concepts["sd_markets"]
