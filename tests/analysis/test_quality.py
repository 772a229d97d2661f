"""Guards over image scores, on folders whose truth is planted: what each must find, and what it must leave alone.

Expected values are the planted scores themselves, worked out by hand or with NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.quality import Quality, quality_estimates
from evenhand.records import Estimate, Guard
from tests.folders import ARMS, prompt_row
from tests.planted_scores import (
    DIMENSIONS,
    MARGINS,
    SCORER,
    Floats,
    PlantedFolder,
    both_arms,
    looks,
    pictures,
    portraits,
    unit,
)

NUM_PROMPTS, NUM_SEEDS = 10, 12
SCORE, SPREAD = 0.6, 0.05
GUARDS = ("image_text", "diversity", "near_duplicates")


def quality(planted: PlantedFolder) -> Quality:
    planted.score()
    return quality_estimates(planted.plan, planted.folder, planted.values)


def guard(found: Quality, name: str, suite: str = "heldout") -> Guard:
    (only,) = [entry for entry in found.guards if (entry.name, entry.suite) == (name, suite)]
    return only


def estimate(found: Quality, name: str, arm: str, suite: str = "heldout") -> Estimate:
    (only,) = [entry for entry in found.estimates if (entry.name, entry.suite, entry.arm) == (name, suite, arm)]
    return only


def passed(found: Quality, suite: str = "heldout") -> dict[str, bool]:
    return {entry.name: entry.passed for entry in found.guards if entry.suite == suite}


def people(
    planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str], mean: Mapping[str, float]
) -> Floats:
    """Pictures of people of these values, whose scores are spread around their value's mean."""
    scores_N = np.array([mean[value] for value in values]) + rng.normal(size=len(values)) * SPREAD
    return pictures(planted.text(prompt_id), scores_N, looks(rng, values))


def mixed(num_women: int, num: int = NUM_SEEDS) -> list[str]:
    return ["woman"] * num_women + ["man"] * (num - num_women)


EQUAL = {"woman": SCORE, "man": SCORE}
# A scorer that finds women fit these prompts less.
UNEQUAL = {"woman": SCORE - 0.2, "man": SCORE}


@pytest.mark.parametrize("rule", ["point", "interval"])
def test_identical_arms_pass_every_guard_with_a_change_of_exactly_zero(tmp_path: Path, rule: str) -> None:
    rng = np.random.default_rng(0)
    planted = PlantedFolder(tmp_path, [*portraits(NUM_PROMPTS), *portraits(4, suite="unrelated")], guard_rule=rule)
    for prompt in planted.prompts:
        values = mixed(int(rng.integers(0, NUM_SEEDS + 1)))
        both_arms(planted, prompt["id"], people(planted, prompt["id"], rng, values, UNEQUAL), values)
    planted.add_training(unit(rng.normal(size=(5, DIMENSIONS))))
    found = quality(planted)
    assert {entry.name for entry in found.guards} == {*GUARDS, "copies"}
    assert {(entry.value, entry.low, entry.high, entry.passed) for entry in found.guards} == {(0.0, 0.0, 0.0, True)}
    assert {entry.evidence for entry in found.guards} == {"no harm shown"}
    shifts = [
        entry for entry in found.estimates if entry.arm == "shift" and entry.name not in ("similarity", "cmmd", "kid")
    ]
    assert len(shifts) > 5
    assert all(entry.value == 0.0 for entry in shifts)
    assert estimate(found, "similarity", "shift", "unrelated").value == pytest.approx(1.0, abs=1e-6)
    assert {test.p for test in found.permutations} == {1.0}


def test_a_folder_without_scores_has_no_estimates_and_no_guards(tmp_path: Path) -> None:
    planted = PlantedFolder(tmp_path, portraits(2))
    assert quality_estimates(planted.plan, tmp_path, {}) == Quality()


def test_a_plan_without_margins_has_estimates_and_no_guards(tmp_path: Path) -> None:
    planted = PlantedFolder(tmp_path, portraits(3), margins={"target": 0.1})
    for prompt in planted.prompts:
        both_arms(
            planted, prompt["id"], people(planted, prompt["id"], np.random.default_rng(1), mixed(4), EQUAL), mixed(4)
        )
    found = quality(planted)
    assert found.guards == ()
    assert estimate(found, "image_text_within", "shift").value == 0.0


def adapted_folder(folder: Path, adapted: Any, *, base_women: int = 1, women: int = 6, **plan: Any) -> PlantedFolder:
    """A base with few women, and adapted pictures that ``adapted(planted, prompt_id, rng, values)`` makes."""
    rng = np.random.default_rng(5)
    planted = PlantedFolder(folder, portraits(NUM_PROMPTS), **plan)
    for prompt in planted.prompts:
        planted.add(
            "base", prompt["id"], people(planted, prompt["id"], rng, mixed(base_women), UNEQUAL), mixed(base_women)
        )
        planted.add("adapted", prompt["id"], adapted(planted, prompt["id"], rng, mixed(women)), mixed(women))
    return planted


def other_people(planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str]) -> Floats:
    """What the base would show of these values: new pictures of the same kind."""
    return people(planted, prompt_id, rng, values, UNEQUAL)


def test_another_mix_moves_the_score_and_is_no_cost(tmp_path: Path) -> None:
    """An adapter that only shows other base pictures: the score falls by 0.2 for 5 of 12 images, all by composition."""
    found = quality(adapted_folder(tmp_path, other_people))
    total, composition, within = (
        estimate(found, name, "shift") for name in ("image_text", "image_text_composition", "image_text_within")
    )
    assert total.high is not None
    assert total.high < -0.02
    assert composition.low is not None
    assert composition.high is not None
    assert composition.low < -0.2 * 5 / 12 < composition.high < 0
    assert within.low is not None
    assert within.high is not None
    assert within.low < 0 < within.high
    assert composition.value is not None
    assert within.value is not None
    assert composition.value + within.value == pytest.approx(total.value, abs=1e-12)
    assert passed(found) == dict.fromkeys(GUARDS, True)


def test_a_lower_score_within_values_is_a_cost_and_fails(tmp_path: Path) -> None:
    def worse(planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str]) -> Floats:
        return people(planted, prompt_id, rng, values, {value: mean - 0.1 for value, mean in UNEQUAL.items()})

    found = quality(adapted_folder(tmp_path, worse))
    within = estimate(found, "image_text_within", "shift")
    assert within.low is not None
    assert within.high is not None
    assert within.low < -0.1 < within.high < 0
    match = estimate(found, "image_text_match", "base")
    assert match.value == pytest.approx(
        estimate(found, "image_text", "base").value, abs=0.05
    )  # other texts fit not at all
    failed = guard(found, "image_text")
    assert not failed.passed
    assert failed.value == pytest.approx((within.value or 0.0) / (match.value or 1.0))


def test_scores_of_other_scales_are_of_the_images_that_all_scales_have(tmp_path: Path) -> None:
    """Scores rise with the seed, so that the mean of all seeds is another one than that of the first two."""
    planted = PlantedFolder(tmp_path, portraits(3), dose={"scales": [0.5, 1.5], "num_seeds": 2})
    rng, values = np.random.default_rng(8), ["man"] * NUM_SEEDS
    scores_N = np.linspace(0.2, 0.8, NUM_SEEDS)
    for prompt in planted.prompts:
        images_ND = pictures(planted.text(prompt["id"]), scores_N, looks(rng, values))
        both_arms(planted, prompt["id"], images_ND, values)
        for arm in ("adapted@0.5", "adapted@1.5"):
            planted.add(arm, prompt["id"], images_ND[:2], values[:2])
    found = quality(planted)
    for arm in ("adapted@0", "adapted@0.5", "adapted@1", "adapted@1.5"):
        point = estimate(found, "image_text", arm)
        assert point.value == pytest.approx(scores_N[:2].mean(), abs=1e-6)
        assert point.n_images == 6
    assert estimate(found, "image_text", "base").value == pytest.approx(scores_N.mean(), abs=1e-6)


def test_without_other_scales_there_are_no_scores_of_scales(tmp_path: Path) -> None:
    planted = PlantedFolder(tmp_path, portraits(2))
    for prompt in planted.prompts:
        both_arms(
            planted, prompt["id"], people(planted, prompt["id"], np.random.default_rng(1), mixed(4), EQUAL), mixed(4)
        )
    assert not [entry for entry in quality(planted).estimates if "@" in entry.arm]


def test_kitagawas_parts_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    """Two prompts; base 1 woman of 4 at .2, men at .6; adapted 3 of 4 at .3, the man at .5.

    Composition: (3/4 - 1/4) (.2 + .3) / 2 + (1/4 - 3/4) (.6 + .5) / 2 = -.15. Within: (.1 - .1) (1/4 + 3/4) / 2 = 0.
    """
    planted = PlantedFolder(tmp_path, portraits(2))
    rng = np.random.default_rng(2)
    for prompt in planted.prompts:
        for arm, women, mean in (("base", 1, {"woman": 0.2, "man": 0.6}), ("adapted", 3, {"woman": 0.3, "man": 0.5})):
            values = mixed(women, 4)
            scores_N = np.array([mean[value] for value in values])
            planted.add(arm, prompt["id"], pictures(planted.text(prompt["id"]), scores_N, looks(rng, values)), values)
    found = quality(planted)
    assert estimate(found, "image_text", "shift").value == pytest.approx(0.35 - 0.5, abs=1e-6)
    assert estimate(found, "image_text_composition", "shift").value == pytest.approx(-0.15, abs=1e-6)
    assert estimate(found, "image_text_within", "shift").value == pytest.approx(0.0, abs=1e-6)


def test_spoilt_pictures_that_nobody_can_read_are_a_cost_not_another_mix(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    planted = PlantedFolder(tmp_path, portraits(NUM_PROMPTS))
    for prompt in planted.prompts:
        planted.add("base", prompt["id"], people(planted, prompt["id"], rng, mixed(6), EQUAL), mixed(6))
        spoilt = people(planted, prompt["id"], rng, mixed(6), {"woman": SCORE - 0.3, "man": SCORE})
        planted.add("adapted", prompt["id"], spoilt, [None] * 6 + ["man"] * 6)
    found = quality(planted)
    assert estimate(found, "image_text_composition", "shift").value == pytest.approx(0.0, abs=0.02)
    assert estimate(found, "image_text_within", "shift").value == pytest.approx(-0.15, abs=0.03)
    assert not guard(found, "image_text").passed


def test_a_value_that_no_base_picture_shows_is_judged_by_the_explicit_prompts(tmp_path: Path) -> None:
    """All men before, all women after, each fitting 0.1 less than the women whom the base draws when asked for them."""
    rng = np.random.default_rng(7)
    neutral = portraits(6)
    asked = [
        {**prompt_row("explicit", prompt["concept"], expects={"presentation": "woman"}), "text": f"explicit {number}"}
        for number, prompt in enumerate(neutral)
    ]
    for with_explicit in (True, False):
        planted = PlantedFolder(tmp_path / str(with_explicit), [*neutral, *(asked if with_explicit else ())])
        for prompt in neutral:
            planted.add("base", prompt["id"], people(planted, prompt["id"], rng, mixed(0), UNEQUAL), mixed(0))
            lower = {"woman": UNEQUAL["woman"] - 0.1}
            planted.add("adapted", prompt["id"], people(planted, prompt["id"], rng, mixed(12), lower), mixed(12))
        for prompt, row in zip(neutral, asked, strict=True):
            if with_explicit:  # drawn so that their cosine with the neutral text is the one that counts
                both_arms(planted, row["id"], people(planted, prompt["id"], rng, mixed(12), UNEQUAL), mixed(12))
        found = quality(planted)
        if with_explicit:
            # Women come new, men go: (m1 - m0) / 2 of the women's change, and nothing is known of the men's.
            assert estimate(found, "image_text_within", "shift").value == pytest.approx(-0.1, abs=0.03)
            assert not guard(found, "image_text").passed
        else:
            assert estimate(found, "image_text_within", "shift").value is None
            assert "image_text" not in passed(found)
            assert any("no value is shown by both arms" in note for note in found.notes)


def test_one_picture_for_each_value_fails_diversity_and_near_duplicates_only(tmp_path: Path) -> None:
    def one_each(planted: PlantedFolder, prompt_id: str, rng: np.random.Generator, values: list[str]) -> Floats:
        fresh = people(planted, prompt_id, rng, ["woman", "man"], UNEQUAL)
        return fresh[[0 if value == "woman" else 1 for value in values]]

    found = quality(adapted_folder(tmp_path, one_each, base_women=6))
    assert passed(found) == {"image_text": True, "diversity": False, "near_duplicates": False}
    assert {guard(found, name).evidence for name in ("diversity", "near_duplicates")} == {"harm shown"}
    assert guard(found, "diversity").value == pytest.approx(-1.0, abs=1e-4)
    # 15 pairs of women and 15 of men, of 66
    assert estimate(found, "near_duplicates", "adapted").value == pytest.approx(30 / 66)
    assert estimate(found, "diversity", "adapted").value == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("base_women", [0, 1, 6])
def test_one_woman_shown_again_and_again_is_found_however_rare_women_were(tmp_path: Path, base_women: int) -> None:
    """With a base that draws no women unasked, its explicit prompts say how different women can be."""
    rng = np.random.default_rng(8)
    neutral = portraits(NUM_PROMPTS)
    asked = [
        {**prompt_row("explicit", prompt["concept"], expects={"presentation": "woman"}), "text": f"explicit {number}"}
        for number, prompt in enumerate(neutral)
    ]
    planted = PlantedFolder(tmp_path, [*neutral, *asked])
    for prompt, row in zip(neutral, asked, strict=True):
        base, adapted = mixed(base_women), mixed(6)
        planted.add("base", prompt["id"], people(planted, prompt["id"], rng, base, EQUAL), base)
        fresh = people(planted, prompt["id"], rng, adapted, EQUAL)
        fresh[:6] = fresh[0]
        planted.add("adapted", prompt["id"], fresh, adapted)
        both_arms(planted, row["id"], people(planted, row["id"], rng, mixed(4, 4), EQUAL), mixed(4, 4))
    failed = guard(quality(planted), "diversity")
    assert not failed.passed
    assert failed.value == pytest.approx(-1.0, abs=1e-4)


def test_other_pictures_of_another_mix_are_as_diverse(tmp_path: Path) -> None:
    found = quality(adapted_folder(tmp_path, other_people, base_women=3, women=9))
    assert guard(found, "diversity").passed
    assert abs(guard(found, "diversity").value or 1.0) < 0.2
    assert guard(found, "near_duplicates").passed


def training_folder(folder: Path, adapted: Any, **plan: Any) -> PlantedFolder:
    """Training pictures in another style than the base's, and adapted ones that ``adapted`` makes."""
    rng = np.random.default_rng(9)
    planted = PlantedFolder(folder, portraits(NUM_PROMPTS), **plan)
    style_D = rng.normal(size=DIMENSIONS) * 0.3
    training_TD = unit(looks(rng, mixed(20, 40)) + style_D)
    for prompt in planted.prompts:
        planted.add("base", prompt["id"], people(planted, prompt["id"], rng, mixed(6), EQUAL), mixed(6))
        fresh = people(planted, prompt["id"], rng, mixed(6), EQUAL)
        planted.add("adapted", prompt["id"], adapted(fresh, training_TD, style_D, rng), mixed(6))
    planted.add_training(training_TD)
    return planted


def test_outputs_equal_to_training_pictures_fail(tmp_path: Path) -> None:
    def copycat(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        return np.concatenate([training_TD[rng.integers(0, len(training_TD), size=3)], fresh[3:]])

    found = quality(training_folder(tmp_path, copycat))
    failed = guard(found, "copies", "all")
    assert not failed.passed
    assert failed.value == pytest.approx(3 / NUM_SEEDS, abs=0.02)
    rise = estimate(found, "training_similarity", "shift", "all")
    assert rise.low is not None
    assert rise.low > 0


def test_almost_copies_fail_too(tmp_path: Path) -> None:
    def nearly(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        chosen = training_TD[rng.integers(0, len(training_TD), size=len(fresh))]
        return unit(chosen + 0.02 * rng.normal(size=fresh.shape))

    assert not guard(quality(training_folder(tmp_path, nearly)), "copies", "all").passed


def test_new_pictures_in_the_style_of_the_training_set_are_no_copies(tmp_path: Path) -> None:
    def restyled(fresh: Floats, training_TD: Floats, style_D: Floats, rng: np.random.Generator) -> Floats:
        return unit(looks(rng, mixed(6)) + style_D)

    found = quality(training_folder(tmp_path, restyled))
    rise = estimate(found, "training_similarity", "shift", "all")
    assert rise.low is not None
    assert rise.low > 0.05  # they all come nearer
    assert guard(found, "copies", "all").passed


def test_without_a_training_set_nothing_is_said_of_copies(tmp_path: Path) -> None:
    found = quality(adapted_folder(tmp_path, other_people))
    assert "copies" not in {entry.name for entry in (*found.guards, *found.estimates)}


def test_swapping_the_arms_negates_every_shift_of_scores_and_diversity(tmp_path: Path) -> None:
    planted = adapted_folder(tmp_path / "one", other_people, base_women=4)
    swapped = PlantedFolder(tmp_path / "other", planted.prompts, arms=list(reversed(ARMS)))
    swapped.__dict__.update({name: value for name, value in planted.__dict__.items() if name != "folder"})
    planted_quality = quality(planted)
    for path in (tmp_path / "one" / "images").rglob("*.png"):
        copy = tmp_path / "other" / path.relative_to(tmp_path / "one")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    swapped_quality = quality(swapped)
    for name in ("image_text", "image_text_composition", "image_text_within", "diversity", "diversity:woman"):
        one, other = estimate(planted_quality, name, "shift"), estimate(swapped_quality, name, "shift")
        assert (one.value or 0) != 0
        assert (one.value, one.low, one.high) == pytest.approx(
            (-(other.value or 0), -(other.high or 0), -(other.low or 0))
        )


def test_a_scorer_that_cannot_tell_prompts_apart_judges_no_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    planted = PlantedFolder(tmp_path, portraits(6))
    for prompt in planted.prompts:
        for arm in ARMS:
            planted.add(arm, prompt["id"], unit(rng.normal(size=(NUM_SEEDS, DIMENSIONS))), mixed(6))
    found = quality(planted)
    assert "image_text" not in passed(found)
    assert any(SCORER in note and "does not tell" in note for note in found.notes)


def test_one_image_a_prompt_has_no_diversity_to_compare_and_says_so(tmp_path: Path) -> None:
    planted = PlantedFolder(tmp_path, portraits(4))
    for prompt in planted.prompts:
        both_arms(
            planted, prompt["id"], people(planted, prompt["id"], np.random.default_rng(1), ["man"], EQUAL), ["man"]
        )
    found = quality(planted)
    assert passed(found) == {"image_text": True}
    assert any("Guard diversity is not run" in note for note in found.notes)


def test_unrelated_pictures_that_changed_are_seen_by_their_features_and_kernels(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    planted = PlantedFolder(tmp_path, [*portraits(2), *portraits(8, suite="unrelated")])
    for prompt in planted.prompts:
        base = people(planted, prompt["id"], rng, mixed(2, 4), EQUAL)
        changed = unit(base + (0.5 * text_free() if prompt["suite"] == "unrelated" else 0.0))
        planted.add("base", prompt["id"], base, mixed(2, 4))
        planted.add("adapted", prompt["id"], changed, mixed(2, 4))
    found = quality(planted)
    similarity = estimate(found, "similarity", "shift", "unrelated")
    pairs = [
        float(np.dot(one, other)) for one, other in zip(*(feature_rows(planted, arm) for arm in ARMS), strict=True)
    ]
    assert similarity.value == pytest.approx(np.mean(pairs), abs=1e-6)
    assert estimate(found, "similarity_yardstick", "base", "unrelated").value is not None
    p = {(test.suite, test.statistic): test.p for test in found.permutations}
    assert p["unrelated", "cmmd"] == p["unrelated", "kid"] == 0.001
    assert p["heldout", "cmmd"] == 1.0


def text_free() -> Floats:
    direction_D = np.zeros(DIMENSIONS)
    direction_D[-5] = 1.0
    return direction_D


def feature_rows(planted: PlantedFolder, arm: str) -> Floats:
    """The planted features of the unrelated pictures of an arm, in order."""
    rows = [row for row in planted._rows if row["arm"] == arm and row["prompt_id"].startswith("unrelated")]
    return np.stack([planted._features[planted._rows.index(row)] for row in rows])


def test_the_rule_interval_asks_for_more_than_the_rule_point(tmp_path: Path) -> None:
    few = {"base_women": 4, "women": 8}
    point = quality(adapted_folder(tmp_path / "point", other_people, **few))
    strict = quality(
        adapted_folder(
            tmp_path / "strict", other_people, guard_rule="interval", margins={**MARGINS, "diversity": 0.02}, **few
        )
    )
    assert guard(point, "diversity").passed
    assert not guard(strict, "diversity").passed
