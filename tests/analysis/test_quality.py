"""Guards over image scores, on folders whose truth is planted: what each must find, and what it must leave alone.

Expected values are the planted scores themselves, worked out by hand or with NumPy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evenhand.analysis.quality import Quality, quality_estimates
from tests.folders import ARMS, prompt_row
from tests.planted_quality import (
    EQUAL,
    GUARDS,
    NUM_PROMPTS,
    NUM_SEEDS,
    SCORE,
    UNEQUAL,
    adapted_folder,
    estimate,
    guard,
    mixed,
    other_people,
    passed,
    people,
    quality,
)
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
