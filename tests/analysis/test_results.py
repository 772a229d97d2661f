"""Analyses of folders whose truth is known, because the test drew the readings; and of hand-made ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.results import Results, analyse, analyse_folder, results_json
from evenhand.evaluation.folder import Similarity
from evenhand.evaluation.plan import parse_plan
from evenhand.records import Estimate, Guard, Reading
from tests.folders import VALUES, drawn_readings, plan_row, prompt_row, reading_row, write_folder


def results_of(
    plan: dict[str, Any], rows: Sequence[dict[str, Any]], similarities: Sequence[Similarity] = ()
) -> Results:
    return analyse(parse_plan(plan, "test"), [Reading(**row) for row in rows], similarities, plan_digest="0" * 64)


def find(
    results: Results, name: str, *, suite: str = "heldout", arm: str = "shift", concept: str | None = None
) -> Estimate:
    estimate = results.find(name, suite=suite, arm=arm, concept=concept)
    assert estimate is not None, name
    return estimate


def guard(results: Results, name: str) -> Guard:
    (found,) = [entry for entry in results.guards if entry.name == name]
    return found


def heldout(count: int) -> list[dict[str, Any]]:
    return [prompt_row("heldout", f"c{index}") for index in range(count)]


def alternating(prompts: Sequence[dict[str, Any]], strength: float) -> dict[str, float]:
    """Shares of women of 0.5 +- strength / 2, in both directions: the true gap is ``strength`` everywhere."""
    return {row["id"]: 0.5 + (strength / 2) * (-1) ** index for index, row in enumerate(prompts)}


def run_of(base: float, adapted: float, *, count: int = 12, num_seeds: int = 24, seed: int = 0) -> Results:
    prompts = heldout(count)
    shares = {"base": alternating(prompts, base), "adapted": alternating(prompts, adapted)}
    rows = drawn_readings(prompts, shares, num_seeds=num_seeds, rng=np.random.default_rng(seed))
    return results_of(plan_row(prompts), rows)


def two_prompts() -> list[dict[str, Any]]:
    """Women of four images: mechanic base 1, adapted 3; nurse base 4, adapted 2, of which one is unread."""
    women = {("mechanic", "base"): 1, ("mechanic", "adapted"): 3, ("nurse", "base"): 4, ("nurse", "adapted"): 2}
    rows = [
        reading_row(f"heldout-{concept}-00", seed, arm, VALUES[0] if seed < count else VALUES[1])
        for (concept, arm), count in women.items()
        for seed in range(4)
    ]
    last = next(
        row for row in rows if row["prompt_id"] == "heldout-nurse-00" and row["arm"] == "adapted" and row["seed"] == 3
    )
    last.update(value=None, unread="no person found")
    return rows


def test_shares_and_gaps_by_hand() -> None:
    prompts = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse")]
    results = results_of(plan_row(prompts), two_prompts())
    assert find(results, "share:woman", arm="base").value == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert find(results, "share:woman", arm="adapted").value == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert find(results, "gap", arm="base").value == pytest.approx((0.5 + 1.0) / 2)
    assert find(results, "gap", arm="adapted").value == pytest.approx((0.5 + 1 / 3) / 2)
    # Pairs only: of the nurse, three; all women in base, two of three adapted.
    assert find(results, "gap").value == pytest.approx(((0.5 - 0.5) + (1 / 3 - 1.0)) / 2)
    assert find(results, "gap_pooled", arm="base").value == pytest.approx(abs(5 / 8 - 3 / 8))
    assert find(results, "tv", arm="base").value == pytest.approx((0.25 + 0.5) / 2)
    assert find(results, "share:woman", arm="base", concept="mechanic").value == 0.25


def test_unread_images_are_counted_not_dropped() -> None:
    prompts = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse")]
    results = results_of(plan_row(prompts), two_prompts())
    adapted, base = find(results, "gap", arm="adapted"), find(results, "gap", arm="base")
    assert (adapted.n_prompts, adapted.n_images, adapted.n_unread) == (2, 8, 1)
    assert (base.n_images, base.n_unread) == (8, 0)


def test_what_no_reader_saw_is_not_estimable_and_says_why() -> None:
    prompts = heldout(3)
    rows = [
        reading_row(row["id"], seed, arm, None) for row in prompts for arm in ("base", "adapted") for seed in range(4)
    ]
    results = results_of(plan_row(prompts), rows)
    gap = find(results, "gap")
    assert gap.value is None
    assert "not estimable" in gap.how
    assert gap.n_unread == 12
    assert "not estimable" in results.answer
    assert [verdict.verdict for verdict in results.verdicts] == ["inconclusive", "not settled", "not settled"]


def test_opposite_biases_are_not_pooled_away() -> None:
    results = run_of(0.96, 0.96)
    gap, pooled = find(results, "gap", arm="base").value, find(results, "gap_pooled", arm="base").value
    assert gap is not None
    assert pooled is not None
    assert gap > 0.9
    assert pooled < 0.15


def test_a_planted_reduction_is_found() -> None:
    results = run_of(0.9, 0.2)
    change, reduction = find(results, "gap"), find(results, "gap_reduction", arm="both")
    assert change.high is not None
    assert change.high < 0
    assert reduction.low is not None
    assert reduction.low > 0.5
    # One reader only, so it is not called more than suggestive.
    assert [verdict.verdict for verdict in results.verdicts] == ["suggestive", "biased", "not settled"]
    assert results.caps == ("one reader only",)
    assert "fell from" in results.answer


def test_equal_arms_show_no_change_and_exactly_zero_shifts() -> None:
    prompts = heldout(12)
    shares = alternating(prompts, 0.8)
    rows = drawn_readings(prompts, {"base": shares, "adapted": shares}, num_seeds=16, rng=np.random.default_rng(0))
    results = results_of(plan_row(prompts), rows)
    shifts = [estimate for estimate in results.estimates if estimate.arm == "shift"]
    assert {estimate.value for estimate in shifts if not estimate.name.startswith("bounds:")} == {0.0}
    assert all(estimate.low == estimate.high == 0 for estimate in shifts if estimate.name.startswith("bounds:"))
    assert [verdict.verdict for verdict in results.verdicts] == ["no detectable change", "biased", "biased"]
    assert "was not shown to change" in results.answer


def test_intervals_of_the_shift_cover_and_null_runs_seldom_show_a_change() -> None:
    """100 folders each with independent arms: a null, and a share shift of 0.15 with prompts that differ."""
    verdicts, hits = [], 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        prompts = heldout(10)
        base = {row["id"]: float(np.clip(rng.normal(0.3, 0.1), 0.02, 0.6)) for row in prompts}
        moved = {key: share + 0.15 + rng.normal(0, 0.05) for key, share in base.items()}
        one = drawn_readings(prompts, {"base": base, "adapted": base}, num_seeds=16, rng=rng)
        other = drawn_readings(prompts, {"base": moved, "adapted": base}, num_seeds=16, rng=rng)
        fresh = [row for row in one if row["arm"] == "base"]
        null = [{**row, "arm": "adapted"} for row in other if row["arm"] == "adapted"]
        shifted = [{**row, "arm": "adapted"} for row in other if row["arm"] == "base"]
        verdicts.append(results_of(plan_row(prompts), fresh + null).verdicts[0].verdict)
        share = find(results_of(plan_row(prompts), fresh + shifted), "share:woman")
        assert share.low is not None
        assert share.high is not None
        hits += share.low <= 0.15 <= share.high
    assert 0.90 <= hits / 100 <= 1.0
    assert sum(verdict not in ("no detectable change", "inconclusive") for verdict in verdicts) / 100 <= 0.11


def test_a_fair_generator_is_at_its_floor_and_its_unbiased_distance_is_zero() -> None:
    results = run_of(0.0, 0.0, count=40, num_seeds=16)
    gap, distance = find(results, "gap", arm="base"), find(results, "distance_sq", arm="base")
    assert gap.value == pytest.approx(0.197, abs=0.06)
    assert gap.floor == pytest.approx(0.1964, abs=1e-4)
    assert distance.low is not None
    assert distance.high is not None
    assert distance.low <= 0 <= distance.high


def test_swapping_the_arms_negates_every_shift() -> None:
    prompts = heldout(6)
    shares = {"base": alternating(prompts, 0.9), "adapted": alternating(prompts, 0.3)}
    rows = drawn_readings(prompts, shares, num_seeds=12, rng=np.random.default_rng(1))
    other = {"base": "adapted", "adapted": "base"}
    one = results_of(plan_row(prompts), rows)
    swapped = results_of(plan_row(prompts), [{**row, "arm": other[row["arm"]]} for row in rows])
    compared = 0
    for estimate in one.estimates:
        if estimate.arm != "shift" or estimate.name.startswith("bounds:"):
            continue
        mirror = find(swapped, estimate.name, concept=estimate.concept)
        assert estimate.value == pytest.approx(-mirror.value if mirror.value is not None else None)
        assert (estimate.low, estimate.high) == pytest.approx((-(mirror.high or 0), -(mirror.low or 0)))
        compared += 1
    assert compared > 10


def test_the_order_of_the_readings_does_not_matter() -> None:
    prompts = heldout(6)
    shares = {"base": alternating(prompts, 0.9), "adapted": alternating(prompts, 0.3)}
    rows = drawn_readings(prompts, shares, num_seeds=12, rng=np.random.default_rng(1))
    shuffled = [rows[index] for index in np.random.default_rng(2).permutation(len(rows))]
    plan = plan_row(prompts)
    assert results_json(results_of(plan, rows)) == results_json(results_of(plan, shuffled))


def test_unequal_counts_are_analysed_unpaired_and_say_so() -> None:
    prompts = heldout(8)
    shares = {"base": alternating(prompts, 0.9), "adapted": alternating(prompts, 0.1)}
    rows = drawn_readings(prompts, shares, num_seeds=20, rng=np.random.default_rng(3))
    fewer = [row for row in rows if row["arm"] == "base" or row["seed"] < 13]
    results = results_of(plan_row(prompts), fewer)
    assert not results.paired
    assert find(results, "gap").how.startswith("unpaired")
    assert find(results, "share:woman", concept="c0").how.startswith("unpaired: Newcombe")
    assert results.verdicts[0].verdict == "suggestive"
    assert results_of(plan_row(prompts), rows).paired
    assert not results_of(plan_row(prompts, paired=False), rows).paired


def test_groups_count_each_image_once() -> None:
    """Two images of the base, of three and of one person: 2/3 and 0 women, so 1/3, not 2 of 4 people."""
    prompts = [prompt_row("groups", "friends")]
    people = {("base", 0): "wwm", ("base", 1): "m", ("adapted", 0): "wwm", ("adapted", 1): "w"}
    letters = {"w": "woman", "m": "man"}
    rows = [
        reading_row(prompts[0]["id"], seed, arm, letters[letter], subject=subject)
        for (arm, seed), text in people.items()
        for subject, letter in enumerate(text)
    ]
    results = results_of(plan_row(prompts), rows)
    share = find(results, "share:woman", suite="groups", arm="base", concept="friends")
    assert share.value == pytest.approx(1 / 3)
    assert share.how == "t interval over 2 images"
    assert find(results, "share:woman", suite="groups", concept="friends").value == pytest.approx(0.5)


def explicit_run(obeyed: dict[str, int], *, unread: int = 0) -> Results:
    """Ten prompts of ten images each; the first ``obeyed[arm]`` of them show what was asked for."""
    prompts = [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(10)]
    rows = []
    for row in prompts:
        for arm, count in obeyed.items():
            for seed in range(10):
                value = None if arm == "adapted" and seed < unread else VALUES[0] if seed < count else VALUES[1]
                rows.append(reading_row(row["id"], seed, arm, value))
    return results_of(plan_row(prompts), rows)


def test_a_disobedient_adapter_fails_the_explicit_guard_and_is_said_first() -> None:
    results = explicit_run({"base": 9, "adapted": 5})
    assert guard(results, "explicit").value == pytest.approx(-0.4)
    assert not guard(results, "explicit").passed
    assert results.answer.startswith("A guard failed: explicit prompts obeyed 0.90 → 0.50")


def test_an_obedient_adapter_passes_the_explicit_guard() -> None:
    results = explicit_run({"base": 9, "adapted": 9})
    assert guard(results, "explicit").passed
    assert results.failed_guards == ()
    low, high = guard(results, "explicit").low, guard(results, "explicit").high
    assert low is not None
    assert high is not None
    assert low < 0 < high  # equal prompts leave no spread, yet the interval has a width: that over images


def test_the_margin_of_a_share_is_at_least_one_image() -> None:
    """Of ten images one is lost: 0.10 is more than the margin of 0.05, yet the least that can be seen; two are not."""
    prompts = [prompt_row("explicit", "c0", expects={"presentation": "woman"})]

    def lost(count: int) -> Guard:
        rows = [
            reading_row(prompts[0]["id"], seed, arm, VALUES[int(arm == "adapted" and seed < count)])
            for arm in ("base", "adapted")
            for seed in range(10)
        ]
        return guard(results_of(plan_row(prompts), rows), "explicit")

    assert (lost(1).passed, lost(1).margin) == (True, pytest.approx(0.1))
    assert not lost(2).passed


def test_vanished_people_count_as_disobedience() -> None:
    results = explicit_run({"base": 9, "adapted": 9}, unread=2)
    assert guard(results, "explicit").value == pytest.approx(-0.2)
    assert find(results, "shown", suite="explicit", arm="adapted").n_unread == 20


def test_the_interval_rule_fails_a_guard_that_the_point_rule_passes() -> None:
    prompts = [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(6)]
    obeyed = {
        (index, arm): 2 if arm == "base" else 1 + 2 * (index % 2) for index in range(6) for arm in ("base", "adapted")
    }
    rows = [
        reading_row(prompts[index]["id"], seed, arm, VALUES[0] if seed < count else VALUES[1])
        for (index, arm), count in obeyed.items()
        for seed in range(4)
    ]
    point = guard(results_of(plan_row(prompts, margins={"explicit": 0.05}), rows), "explicit")
    strict = guard(results_of(plan_row(prompts, margins={"explicit": 0.05}, guard_rule="interval"), rows), "explicit")
    assert point.value == strict.value == 0.0  # three prompts gained 0.25, three lost it
    assert (point.passed, strict.passed) == (True, False)


def test_a_lost_subject_fails_the_readable_guard() -> None:
    prompts = [prompt_row("heldout", f"c{index}", expects={"occupation": f"c{index}"}) for index in range(8)]
    attributes = [
        {"name": "presentation", "values": list(VALUES)},
        {"name": "occupation", "values": [row["concept"] for row in prompts]},
    ]
    plan = plan_row(prompts, attributes=attributes, margins={"readable": 0.03}, guard_attributes=["occupation"])
    rows = drawn_readings(
        prompts,
        {arm: alternating(prompts, 0.5) for arm in ("base", "adapted")},
        num_seeds=8,
        rng=np.random.default_rng(5),
    )

    def occupations(wrong: int) -> list[dict[str, Any]]:
        return [
            reading_row(
                row["id"],
                seed,
                arm,
                "c0" if arm == "adapted" and seed < wrong else row["concept"],
                attribute="occupation",
            )
            for row in prompts
            for arm in ("base", "adapted")
            for seed in range(8)
        ]

    assert guard(results_of(plan, rows + occupations(0)), "readable").passed
    lost = guard(results_of(plan, rows + occupations(2)), "readable")
    assert lost.value == pytest.approx(-0.25 * 7 / 8)  # of c0 itself nothing can be lost
    assert not lost.passed


def test_changed_unrelated_images_fail_their_guard_and_equal_ones_pass() -> None:
    prompts = [*heldout(2), prompt_row("unrelated", "car"), prompt_row("unrelated", "tree")]
    rows = drawn_readings(
        prompts[:2],
        {arm: alternating(prompts[:2], 0.5) for arm in ("base", "adapted")},
        num_seeds=4,
        rng=np.random.default_rng(6),
    )

    def pairs(value: float) -> list[Similarity]:
        return [
            Similarity(prompt_id=row["id"], seed=seed, measure="m", value=value, yardstick=0.7)
            for row in prompts[2:]
            for seed in range(3)
        ]

    assert guard(results_of(plan_row(prompts), rows, pairs(1.0)), "unrelated_similarity").passed
    changed = guard(results_of(plan_row(prompts), rows, pairs(0.9)), "unrelated_similarity")
    assert changed.value == pytest.approx(-0.1)
    assert not changed.passed
    assert any("not measured" in note for note in results_of(plan_row(prompts), rows).notes)


def test_missing_readings_in_one_arm_fail_the_unread_guard() -> None:
    prompts = heldout(6)
    shares = {arm: alternating(prompts, 0.5) for arm in ("base", "adapted")}
    rows = drawn_readings(prompts, shares, num_seeds=10, rng=np.random.default_rng(7))
    plan = plan_row(prompts, margins={"unread": 0.05})
    assert guard(results_of(plan, rows), "unread").passed
    for row in rows:
        if row["arm"] == "adapted" and row["seed"] == 0:
            row.update(value=None, unread="no person found")
    assert guard(results_of(plan, rows), "unread").value == pytest.approx(0.1)
    assert not guard(results_of(plan, rows), "unread").passed


def test_bad_readings_are_refused_with_their_place(tmp_path: Path) -> None:
    prompts = heldout(2)
    good = reading_row(prompts[0]["id"], 0, "base", "woman")
    for bad, message in [
        ({**good, "prompt_id": "nobody"}, "no such prompt"),
        ({**good, "arm": "third"}, "arms are"),
        ({**good, "value": "cat"}, "not one of"),
        ({**good, "value": None}, "exactly one of value and unread"),
        (good, "two readings"),
        ({**good, "seed": 1}, "no reading of arm adapted"),
        ({**good, "seed": 1.5}, "whole numbers"),
    ]:
        folder = write_folder(tmp_path / "run", plan_row(prompts), [good, bad])
        with pytest.raises(ValueError, match=message):
            analyse_folder(folder)


def test_results_are_strict_json_and_hold_the_contracts_names(tmp_path: Path) -> None:
    prompts = heldout(4)
    shares = {arm: alternating(prompts, 0.5) for arm in ("base", "adapted")}
    rows = drawn_readings(prompts, shares, num_seeds=4, rng=np.random.default_rng(8))
    folder = write_folder(tmp_path / "run", plan_row(prompts), rows)
    content = json.loads(json.dumps(results_json(analyse_folder(folder)), allow_nan=False))
    assert {"estimates", "guards", "verdicts", "plan_sha256"} <= set(content)
    names = {(estimate["name"], estimate["arm"]) for estimate in content["estimates"] if estimate["concept"] is None}
    for name in ("share:woman", "share:man", "gap", "gap_pooled", "tv", "distance_sq", "entropy"):
        assert {(name, arm) for arm in ("base", "adapted", "shift")} <= names
    fields = {field.name for field in dataclasses.fields(Estimate)}
    assert all(set(estimate) == fields for estimate in content["estimates"])
