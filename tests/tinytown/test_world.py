"""The world of tinytown against its own YAML: shares, captions, pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from scipy import stats

from evenhand.tinytown.renders import HELDOUT_SEED, render_samples
from evenhand.tinytown.world import NUM_PLACES, PERSON_ATTRIBUTES, ROCK_FAN, WORLD_PATH, tinytown

NUM_DRAWS = 800


def test_the_world_has_what_its_benchmark_needs() -> None:
    world = tinytown()
    assert len(world.occupations) >= 24
    assert len(world.objects) == 8
    women = [world.shares(name, "presentation")[0] for name in world.occupations]
    assert min(women) <= 0.05
    assert max(women) >= 0.95
    assert world.shares("christmas market in australia", "season") == pytest.approx((0.95, 0.05))
    assert world.shares("swedish meatballs", "sauce") == pytest.approx((0.95, 0.05))
    assert world.shares("italian meatballs", "sauce") == (1.0, 0.0)
    assert world.shares(ROCK_FAN, "print") == pytest.approx((0.3, 0.7))
    assert world.shares("pyladies", "presentation") == (1.0, 0.0)


@pytest.mark.parametrize("concept", ["mechanic", "flight attendant", "artist", "housekeeper"])
@pytest.mark.parametrize("attribute", PERSON_ATTRIBUTES)
def test_drawn_people_follow_the_declared_shares(concept: str, attribute: str) -> None:
    # Expected counts straight from the YAML's numbers through World.shares; a chi-square test of scipy compares.
    world = tinytown()
    values = world.attributes[attribute]
    drawn = [world.draw(concept, seed).labels[attribute] for seed in range(NUM_DRAWS)]
    counts = [drawn.count(value) for value in values]
    assert stats.chisquare(counts, np.array(world.shares(concept, attribute)) * NUM_DRAWS).pvalue > 1e-4
    # Control: a share that is not the declared one is found out.
    wrong = np.array(world.shares(concept, attribute))
    order = np.argsort(wrong)
    wrong[order[[0, -1]]] += (0.25, -0.25)
    assert stats.chisquare(counts, wrong * NUM_DRAWS).pvalue < 1e-4


def test_skin_that_depends_on_presentation_averages_to_the_marginal() -> None:
    data = yaml.safe_load(WORLD_PATH.read_text())["occupations"]["housekeeper"]
    by_hand = data["women"] * data["skin"]["woman"][2] + (1 - data["women"]) * data["skin"]["man"][2]
    assert tinytown().shares("housekeeper", "skin")[2] == pytest.approx(by_hand)


def test_fixed_values_are_shown_by_everybody_in_a_group() -> None:
    scene = tinytown().draw("python developers", 3, fixed={"presentation": "woman"})
    assert [scene.labels[f"{place}.presentation"] for place in range(NUM_PLACES)] == ["woman"] * NUM_PLACES


def test_one_person_of_a_group_can_be_fixed_and_the_others_stay_as_they_were() -> None:
    world = tinytown()
    drawn = world.draw("python developers", 3).labels
    other = "woman" if drawn["1.presentation"] == "man" else "man"
    labels = world.draw("python developers", 3, fixed={"1.presentation": other}).labels
    assert labels == {**drawn, "1.presentation": other}
    mixed = world.draw("pyladies", 3, fixed={"skin": "dark", "0.skin": "light"}).labels
    assert [mixed[f"{place}.skin"] for place in range(NUM_PLACES)] == ["light", "dark", "dark"]
    for concept, name in (("mechanic", "0.presentation"), ("python developers", "3.presentation")):
        with pytest.raises(ValueError, match=f"cannot have {name}=woman"):
            world.draw(concept, 3, fixed={name: "woman"})


def test_unknown_concepts_and_impossible_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown concept 'astronaut'"):
        tinytown().draw("astronaut", 0)
    with pytest.raises(ValueError, match="cannot have season=winter"):
        tinytown().draw("mechanic", 0, fixed={"season": "winter"})


def test_captions_name_what_they_say_and_nothing_else() -> None:
    world = tinytown()
    words = {
        "presentation": {"woman": "female", "man": "male"},
        "skin": {"light": "light-skinned", "medium": "medium-skinned", "dark": "dark-skinned"},
    }
    neutral = explicit = 0
    for seed in range(600):
        sample = world.sample(seed)
        for attribute, by_value in words.items():
            found = [value for value, word in by_value.items() if re.search(rf"\b{word}\b", sample.text)]
            if attribute not in sample.named:
                assert found == [], sample.text
                neutral += 1
                continue
            explicit += 1
            labels = sample.scene.labels
            shown = {value for name, value in labels.items() if name.split(".")[-1] == attribute}
            assert shown == set(found), sample.text
    assert min(neutral, explicit) > 50


def test_articles_fit_the_noun() -> None:
    world = tinytown()
    assert world.caption("electrician", {}, template="a photo of {}") == "a photo of an electrician"
    named = {"presentation": "woman", "skin": "dark", "glasses": "worn"}
    expected = "a photo of a dark-skinned female electrician with glasses"
    assert world.caption("electrician", named, template="a photo of {}") == expected
    assert world.caption("swedish meatballs", {}, template="{}") == "a plate of swedish meatballs"
    assert world.caption("pyladies", {}, template="a meetup of {}") == "a meetup of pyladies"


def test_balanced_samples_do_not_let_the_occupation_tell_the_person() -> None:
    world = tinytown()
    samples = [world.sample_balanced(seed).scene for seed in range(6000)]
    shown = [scene.labels["presentation"] for scene in samples if scene.concept in ("mechanic", "plumber", "pilot")]
    assert stats.binomtest(shown.count("woman"), len(shown), 0.5).pvalue > 1e-4
    # Control: in the base's own samples they are few (3 occupations of 5 to 6 % women, half of them asked for).
    biased = [world.draw("mechanic", seed).labels["presentation"] for seed in range(200)]
    assert stats.binomtest(biased.count("woman"), len(biased), 0.5).pvalue < 1e-4


def test_a_scene_is_one_picture_and_its_labels_change_it() -> None:
    world = tinytown()
    one = np.asarray(world.render(world.draw("mechanic", 7, fixed={"glasses": "absent"}))).astype(int)
    again = np.asarray(world.render(world.draw("mechanic", 7, fixed={"glasses": "absent"}))).astype(int)
    glasses = np.asarray(world.render(world.draw("mechanic", 7, fixed={"glasses": "worn"}))).astype(int)
    assert one.shape == (64, 64, 3)
    assert (one == again).all()
    changed = np.abs(one - glasses).max(axis=2) > 30
    rows = np.nonzero(changed)[0]
    # Glasses are two rings at the height of the eyes (112 of 280 units), and nothing else.
    assert 20 < changed.sum() < 400
    assert rows.min() >= 14
    assert rows.max() <= 40


def test_renders_are_kept_and_a_wrong_number_of_them_is_refused(tmp_path) -> None:
    first = render_samples(tmp_path, num_images=4, first_seed=HELDOUT_SEED, balanced=True, num_workers=1)
    written = (tmp_path / "pixels.npy").stat().st_mtime_ns
    again = render_samples(tmp_path, num_images=4, first_seed=HELDOUT_SEED, balanced=True, num_workers=1)
    assert (tmp_path / "pixels.npy").stat().st_mtime_ns == written
    assert again.rows == first.rows
    scene = tinytown().sample_balanced(HELDOUT_SEED + 2).scene
    assert (np.asarray(tinytown().render(scene)) == first.pixels_BHWC[2]).all()
    with pytest.raises(ValueError, match="holds 4 pictures, not 5"):
        render_samples(tmp_path, num_images=5, first_seed=HELDOUT_SEED, balanced=True)
