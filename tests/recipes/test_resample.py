from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest

from evenhand.evaluation.targets import Table, Uniform
from evenhand.recipes.candidates import Candidate
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.resample import drawn, lacks, lacks_told, most_images, pools, reweighted
from evenhand.records import Attribute

SEASON = Attribute(
    name="season",
    values=("winter", "summer"),
    forms={"winter": "{} in winter", "summer": "{} in summer"},
    words={"winter": ("winter",), "summer": ("summer",)},
)


def plan(images_per_concept: int = 8, *, shares: list[float] | None = None, **changes: Any) -> CuratedPlan:
    given: dict[str, Any] = {
        "attributes": {"first": SEASON},
        "targets": {"*": Uniform() if shares is None else Table(rows={"*": shares}, source="a test")},
        "concepts": ["market", "beach"],
        "heldout": [],
        "templates": ["{a_concept}"],
        "images_per_concept": images_per_concept,
        "seed": 0,
    }
    return CuratedPlan(**{**given, **changes})


def candidates(**numbers: int) -> list[Candidate]:
    """``market_winter=3``: three pictures of that cell."""
    found = []
    for name, number in numbers.items():
        concept, season = name.split("_")
        for each in range(number):
            labels = {"season": season}
            found.append(Candidate(source="s", key=f"{name}{each}", concept=concept, labels=labels, sha256="x"))
    return found


PLENTY = candidates(market_winter=9, market_summer=30, beach_winter=4, beach_summer=5)


def test_each_slot_gets_a_picture_of_its_cell_and_none_comes_twice() -> None:
    asked = plan()
    pictures = drawn(asked, pools(asked, PLENTY))
    for slot, picture in zip(asked.slots, pictures, strict=True):
        assert (picture.concept, picture.labels) == (slot.concept, slot.labels)
    assert max(Counter(picture.key for picture in pictures).values()) == 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order_in_which_pictures_were_found() -> None:
    asked = plan()
    pictures = drawn(asked, pools(asked, PLENTY))
    assert drawn(asked, pools(asked, reversed(PLENTY))) == pictures
    assert drawn(plan(seed=1), pools(plan(seed=1), PLENTY)) != pictures


def test_the_draw_favours_no_place_in_the_source() -> None:
    """1000 seeds draw 4 of 30: each picture 133 times on average, with a standard deviation of about 11."""
    counts: Counter[str] = Counter()
    for seed in range(1000):
        asked = plan(seed=seed, concepts=["market"])
        found = pools(asked, PLENTY[:39])
        counts.update(picture.key for picture in drawn(asked, found) if picture.labels["season"] == "summer")
    assert len(counts) == 30
    assert max(abs(number - 4000 / 30) for number in counts.values()) < 5 * 11


def test_a_scarce_cells_pictures_take_turns_and_are_not_used_beyond_the_limit() -> None:
    found = candidates(market_winter=3, market_summer=9, beach_winter=9, beach_summer=9)
    asked = plan(images_per_concept=14)
    assert lacks(asked, pools(asked, found), max_repeats=3) == []
    uses = Counter(picture.key for picture in drawn(asked, pools(asked, found)) if "market_winter" in picture.key)
    assert sorted(uses.values()) == [2, 2, 3]
    assert [lack.missing for lack in lacks(asked, pools(asked, found), max_repeats=2)] == [1]


def test_every_lacking_cell_is_named_with_what_it_lacks_and_what_would_do() -> None:
    found = candidates(market_winter=3, market_summer=9, beach_summer=2)
    asked = plan()
    lacking = lacks(asked, pools(asked, found), max_repeats=1)
    told = lacks_told(asked, pools(asked, found), lacking, max_repeats=1, mode="resample")
    assert "3 cells" in told
    assert "market, season=winter: 3 found, 4 wanted, 1 missing" in told
    assert "beach, season=winter: 0 found, 4 wanted, 4 missing" in told
    assert "beach, season=summer: 2 found, 4 wanted, 2 missing" in told
    assert "lower images_per_concept" not in told  # no number would do: a cell is empty
    found += candidates(beach_winter=1)
    lacking = lacks(asked, pools(asked, found), max_repeats=1)
    told = lacks_told(asked, pools(asked, found), lacking, max_repeats=1, mode="resample")
    assert "lower images_per_concept to 2" in told
    smaller = plan(images_per_concept=2)
    assert lacks(smaller, pools(smaller, found), max_repeats=1) == []


def test_skipped_pictures_fill_nothing() -> None:
    asked = plan(concepts=["market"])
    found = [Candidate(source="s", key=str(number), skipped="truncated") for number in range(50)]
    assert {lack.found for lack in lacks(asked, pools(asked, found), max_repeats=1)} == {0}


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.75, 0.25], [0.6, 0.4], [1.0, 0.0]])
@pytest.mark.parametrize("max_repeats", [1, 2, 5])
@pytest.mark.parametrize("numbers", [(9, 30), (30, 9), (2, 100), (7, 7)])
def test_reweighting_uses_what_it_can_at_exact_shares(
    shares: list[float], max_repeats: int, numbers: tuple[int, int]
) -> None:
    """The size is compared with a search over all sizes; quotas are within one of the exact number."""
    asked = plan(images_per_concept=60, shares=shares, concepts=["market"])
    found = pools(asked, candidates(market_winter=numbers[0], market_summer=numbers[1]))
    fitted = reweighted(asked, found, max_repeats=max_repeats)
    exact = [Fraction(share).limit_denominator() for share in shares]
    possible = [
        size
        for size in range(1, 61)
        if all(share * size <= number * max_repeats for share, number in zip(exact, numbers, strict=True))
    ]
    every = [
        size
        for size in range(1, 61)
        if all(share * size >= number for share, number in zip(exact, numbers, strict=True) if share)
    ]
    wanted = min([max(possible), *every])
    if any(0 < share * wanted < 1 for share in exact):
        assert (shares, max_repeats, numbers) == ([0.75, 0.25], 1, (2, 100))
        assert [lack.missing for lack in lacks(fitted, found, max_repeats=max_repeats)] == [1]  # 3 winters of 4 images
        return
    assert lacks(fitted, found, max_repeats=max_repeats) == []
    assert len(fitted.slots) == wanted
    for share, quota in zip(exact, fitted.quotas["market"], strict=True):
        assert abs(share * wanted - quota) < 1
    uses = Counter(picture.key for picture in drawn(fitted, found))
    assert max(uses.values()) <= max_repeats


def test_concepts_may_get_different_sizes_and_the_whole_stays_within_one_of_its_shares() -> None:
    asked = plan(images_per_concept=100, shares=[1 / 3, 2 / 3])
    found = pools(asked, candidates(market_winter=5, market_summer=5, beach_winter=3, beach_summer=20))
    fitted = reweighted(asked, found, max_repeats=2)
    sizes = {name: sum(quotas) for name, quotas in fitted.quotas.items()}
    assert sizes == {"market": 15, "beach": 18}  # 10 of summer's 5 x 2; 6 of winter's 3 x 2
    overall = [sum(quotas[cell] for quotas in fitted.quotas.values()) for cell in range(2)]
    assert all(abs(number - 33 * share) < 1 for number, share in zip(overall, (1 / 3, 2 / 3), strict=True))
    assert len({slot.index for slot in fitted.slots}) == len(fitted.slots) == 33


def test_a_concept_without_pictures_of_a_wanted_cell_is_told_not_left_out() -> None:
    asked = plan()
    found = pools(asked, candidates(market_winter=5, market_summer=5, beach_summer=20))
    fitted = reweighted(asked, found, max_repeats=2)
    assert [lack.concept for lack in lacks(fitted, found, max_repeats=2)] == ["beach"]
    assert most_images(asked, found, "beach", max_repeats=2) == 0
