from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from evenhand.captions.check import grammar_problems
from evenhand.captions.templates import Template, concept_of
from evenhand.captions.wordings import Wordings
from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.paths import conf_folder

CHOICES = sorted(path.stem for path in (conf_folder() / "wordings").glob("*.yaml"))
OF_GROUPS = ("tinytown_groups",)
# of the few wordings that tinytown knows of groups and scenes
LEAVES_SOME_FOR_MEASURING = ("tinytown_groups", "tinytown_scenes")


def wordings(**changes: Any) -> tuple[str, ...]:
    arguments: dict[str, Any] = {
        "wordings": ["{a_concept}", "{a_concept} at work"],
        "modifiers": ["{}", "{} in a blue jacket", "{}, outdoors"],
        "styles": ["a photo of {}", "an oil painting of {}"],
        "limit": None,
        "seed": 0,
    }
    return Wordings(**{**arguments, **changes}).texts


def test_all_combinations_come_once_and_read_from_the_inside_outwards() -> None:
    texts = wordings()
    assert len(set(texts)) == len(texts) == 12  # by hand: 2 x 3 x 2
    assert "an oil painting of {a_concept} at work in a blue jacket" in texts
    assert "a photo of {a_concept}, outdoors" in texts


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (2, 4, 2), (3, 2, 5), (4, 6, 3), (5, 1, 2), (6, 6, 6)])
def test_whatever_the_limit_none_comes_twice_and_each_part_equally_often_within_one(sizes: tuple[int, ...]) -> None:
    """Also where the three numbers have a common divisor, so that walking along all three comes round too early."""
    parts = [[f"{name}{number}" for number in range(size)] for name, size in zip("wms", sizes, strict=True)]
    lists = {
        "wordings": [f"{{a_concept}} {part}" for part in parts[0]],
        "modifiers": [f"{{}} {part}" for part in parts[1]],
        "styles": [f"{part} {{}}" for part in parts[2]],
    }
    for limit in range(1, sizes[0] * sizes[1] * sizes[2] + 1):
        texts = wordings(**lists, limit=limit, seed=3)
        assert len(set(texts)) == limit
        used = Counter(word for text in texts for word in text.split())
        for members in parts:
            counts = [used[member] for member in members]
            assert max(counts) - min(counts) <= 1


def test_the_same_seed_gives_the_same_templates_and_another_seed_others() -> None:
    assert wordings(limit=5) == wordings(limit=5)
    assert wordings(limit=5, seed=1) != wordings(limit=5)


def test_without_a_seed_the_order_is_that_of_the_list() -> None:
    listed = ["{a_concept} at work", "{a_concept}", "a {concept}"]
    assert wordings(wordings=listed, modifiers=["{}"], styles=["{}"], seed=None) == tuple(listed)


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_makes_grammatical_captions_of_nouns_of_both_articles(name: str) -> None:
    made = build(compose_config("build", [f"wordings={name}"]).plain["wordings"])
    nouns = (
        ("engineers", "nurses", "farmers in Ghana")
        if name in OF_GROUPS
        else ("electrician", "nurse", "market in Ghana")
    )
    concepts = [concept_of(noun) for noun in nouns]
    captions = [Template(text).neutral(concept) for text in made.texts for concept in concepts]
    assert len(set(captions)) == len(captions) >= (6 if name in LEAVES_SOME_FOR_MEASURING else 24)
    assert [str(problem) for problem in grammar_problems(captions, concepts)] == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"wordings": ["a photo"]}, "needs exactly one placeholder"),
        ({"modifiers": ["outdoors"]}, "modifier 'outdoors' needs one {}"),
        ({"styles": ["{} and {}"]}, "style '{} and {}' needs one {}"),
        ({"styles": []}, "styles is empty; '{}' alone is the one that changes nothing"),
        ({"modifiers": ["{}", "{}"]}, "modifiers: '{}' is listed twice"),
        ({"limit": 13}, "limit must be 1 to 12, as 2 wordings, 3 modifiers and 2 styles"),
        ({"limit": 0}, "limit must be 1 to 12"),
    ],
)
def test_wrong_lists_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        wordings(**changes)
