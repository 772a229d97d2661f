"""The dose curve: every point of the same images, so that a curve shows the adapter and not how many images it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.dose import dose_scales
from evenhand.analysis.results import Results, analyse
from evenhand.evaluation.plan import parse_plan
from evenhand.records import Reading
from tests.folders import drawn_readings, plan_row, prompt_row

SCALES, DOSE_SEEDS, NUM_SEEDS, NUM_PROMPTS = (0.25, 0.5, 1.25), 2, 16, 60
CURVE = ("adapted@0", "adapted@0.25", "adapted@0.5", "adapted@1", "adapted@1.25")
QUANTITIES = ("share:woman", "gap", "tv", "distance_sq", "rms")


def dosed_plan(prompts: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return plan_row(prompts, dose={"scales": list(SCALES), "num_seeds": DOSE_SEEDS}, **changes)


def results_of(plan: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Results:
    readings = [Reading(**row) for row in rows]
    return analyse(parse_plan(plan, "plan"), readings, [], plan_digest="0" * 64)


def drawn(base: float, adapted: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts, and readings of both arms with these chances of the first value."""
    prompts = [prompt_row("heldout", f"job{number}") for number in range(NUM_PROMPTS)]
    shares = {"base": {row["id"]: base for row in prompts}, "adapted": {row["id"]: adapted for row in prompts}}
    return prompts, drawn_readings(prompts, shares, num_seeds=NUM_SEEDS, rng=np.random.default_rng(3))


def at_scales(rows: Sequence[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """What an arm shows, repeated as the images of every other scale: the first seeds only."""
    first = [row for row in rows if row["arm"] == arm and row["seed"] < DOSE_SEEDS]
    return [{**row, "arm": f"adapted@{scale:g}"} for scale in SCALES for row in first]


def points(results: Results, name: str) -> list[float]:
    found = [results.find(name, suite="heldout", arm=arm) for arm in CURVE]
    assert all(each is not None and each.value is not None for each in found), name
    return [each.value for each in found if each is not None and each.value is not None]


def test_an_adapter_of_equal_images_at_every_scale_gives_a_flat_curve() -> None:
    """Nothing may happen: base, adapter and all scales show the same. The headline has more images, and a lower gap."""
    prompts, rows = drawn(0.5, 0.5)
    results = results_of(dosed_plan(prompts), rows + at_scales(rows, "base"))
    for name in QUANTITIES:
        assert len(set(points(results, name))) == 1, name
    headline = results.find("gap", suite="heldout", arm="base")
    assert headline is not None
    assert headline.value is not None
    # An even generator: of two images the gap is 0 or 1, each half of the time; of sixteen it is near 0.2.
    assert points(results, "gap")[0] > headline.value + 0.15


def test_every_point_of_the_curve_has_the_same_images_and_the_same_floor() -> None:
    prompts, rows = drawn(0.9, 0.5)
    results = results_of(dosed_plan(prompts), rows + at_scales(rows, "adapted"))
    found = [results.find("gap", suite="heldout", arm=arm) for arm in CURVE]
    assert {(each.n_prompts, each.n_images) for each in found if each is not None} == {(60, 120)}
    # Two draws of a fair coin agree half of the time, and then the gap is one.
    assert [each.floor for each in found if each is not None] == [pytest.approx(0.5, abs=0.03)] * len(CURVE)


def test_the_ends_of_the_curve_are_both_arms_on_the_shared_seeds() -> None:
    """Counted by hand from the rows; that the base is left for the adapter at scale 1 must be found."""
    prompts, rows = drawn(0.95, 0.5)
    results = results_of(dosed_plan(prompts), rows + at_scales(rows, "base"))
    for arm, name in (("base", "adapted@0"), ("adapted", "adapted@1")):
        values = [row["value"] == "woman" for row in rows if row["arm"] == arm and row["seed"] < DOSE_SEEDS]
        share = results.find("share:woman", suite="heldout", arm=name)
        assert share is not None
        assert share.value == pytest.approx(sum(values) / len(values))
    shares = points(results, "share:woman")
    assert shares[0] - shares[3] > 0.3
    assert shares[0] == shares[1] == shares[2] == shares[4]


def test_unread_images_of_a_scale_are_counted_and_not_dropped_from_the_others() -> None:
    prompts, rows = drawn(0.9, 0.5)
    dose = at_scales(rows, "adapted")
    for row in dose:
        if row["arm"] == "adapted@1.25" and row["seed"] == 0:
            row.update(value=None, unread="no person found")
    results = results_of(dosed_plan(prompts), rows + dose)
    found = [results.find("share:woman", suite="heldout", arm=arm) for arm in CURVE]
    assert [(each.n_images, each.n_unread) for each in found if each is not None] == [*[(120, 0)] * 4, (120, 60)]


def test_only_prompts_and_seeds_of_every_scale_are_on_the_curve() -> None:
    prompts, rows = drawn(0.9, 0.5)
    dose = [
        row
        for row in at_scales(rows, "adapted")
        if (row["arm"], row["prompt_id"]) != ("adapted@0.5", prompts[0]["id"])
        and (row["arm"], row["prompt_id"], row["seed"]) != ("adapted@0.25", prompts[1]["id"], 1)
    ]
    results = results_of(dosed_plan(prompts), rows + dose)
    found = [results.find("gap", suite="heldout", arm=arm) for arm in CURVE]
    assert {(each.n_prompts, each.n_images) for each in found if each is not None} == {(59, 117)}


def test_scales_without_a_shared_image_give_no_curve_and_a_note() -> None:
    prompts, rows = drawn(0.9, 0.5)
    other = [{**row, "seed": row["seed"] + 1000} for row in at_scales(rows, "adapted")]
    results = results_of(dosed_plan(prompts), rows + other)
    assert not [each for each in results.estimates if "@" in each.arm]
    assert "There is no dose curve: no image of the headline was read at every scale of the adapter." in results.notes
    shared = results_of(dosed_plan(prompts), rows + at_scales(rows, "adapted"))
    assert not [note for note in shared.notes if "dose curve" in note]


def test_the_adapters_own_scale_is_a_point_whatever_it_is() -> None:
    from dataclasses import replace

    from tests.report.full_folder import full_plan, full_prompts

    plan = parse_plan(full_plan(full_prompts()), "plan")
    assert plan.generation is not None
    half = replace(plan, generation=replace(plan.generation, adapter_scale=0.6))
    assert [point.scale for point in dose_scales(half).values()] == [0.0, 0.25, 0.5, 0.6, 0.75, 1.25]
    assert dose_scales(half)["adapted@0.6"].arm == "adapted"
    assert dose_scales(replace(plan, dose=None)) == {}
