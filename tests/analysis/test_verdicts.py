"""The ladder of verdicts, its caps, and the tests of single prompts, on folders whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.results import Results, analyse, analyse_folder, results_json
from evenhand.analysis.verdicts import Verdict
from evenhand.evaluation.plan import parse_plan
from evenhand.records import Reading
from tests.folders import VALUES, drawn_readings, plan_row, prompt_row, reading_row, write_folder

OTHER = {"base": "adapted", "adapted": "base"}


def heldout(count: int) -> list[dict[str, Any]]:
    return [prompt_row("heldout", f"c{index}") for index in range(count)]


def twice(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The readings, and a second reader that says the same."""
    return [*rows, *({**row, "reader": "second"} for row in rows)]


def results_of(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Results:
    return analyse(parse_plan(plan, "test"), [Reading(**row) for row in rows], [], plan_digest="0" * 64)


def run(
    base: Sequence[float], adapted: Sequence[float], *, num_seeds: int = 24, seed: int = 0, **changes: Any
) -> Results:
    prompts = heldout(len(base))
    shares = {
        arm: dict(zip((row["id"] for row in prompts), part, strict=True))
        for arm, part in (("base", base), ("adapted", adapted))
    }
    rows = drawn_readings(prompts, shares, num_seeds=num_seeds, rng=np.random.default_rng(seed))
    return results_of(plan_row(prompts, **changes), twice(rows))


def shift_of(results: Results) -> Verdict:
    verdict = results.verdict()
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    ("base", "adapted", "word"),
    [
        ([0.95] * 40, [0.5] * 40, "on target"),
        ([0.95] * 20, [0.72] * 20, "partial"),
        ([0.06] * 20, [0.95] * 20, "overshoot"),
        ([0.06, 0.94] * 10, [0.95, 0.05] * 10, "overshoot"),  # the mean share says nothing: half rose, half fell
        ([0.5] * 20, [0.95] * 20, "harm"),
        ([0.8] * 40, [0.8] * 40, "no detectable change"),
    ],
)
def test_each_rung_of_the_ladder_is_reached(base: list[float], adapted: list[float], word: str) -> None:
    verdict = shift_of(run(base, adapted, num_seeds=32))
    assert verdict.verdict == word
    for other in ("biased", "improved"):
        assert other not in verdict.sentence


def test_few_images_are_inconclusive_not_unchanged() -> None:
    rng = np.random.default_rng(2)
    prompts = heldout(5)
    shares = {row["id"]: 0.7 for row in prompts}
    one, other = (drawn_readings(prompts, {"base": shares, "adapted": shares}, num_seeds=8, rng=rng) for _ in range(2))
    rows = [row for row in one if row["arm"] == "base"] + [row for row in other if row["arm"] == "adapted"]
    verdict = shift_of(results_of(plan_row(prompts), twice(rows)))
    assert verdict.verdict == "inconclusive"
    assert verdict.mde is not None
    assert verdict.mde > 0.10
    assert "MDE" in verdict.sentence


def test_a_failed_guard_is_harm_and_stands_first() -> None:
    prompts = [*heldout(12), *(prompt_row("explicit", f"e{n}", expects={"presentation": "woman"}) for n in range(6))]
    shares = {
        "base": {row["id"]: 0.95 for row in prompts},
        "adapted": {row["id"]: 0.5 if row["suite"] == "heldout" else 0.4 for row in prompts},
    }
    rows = drawn_readings(prompts, shares, num_seeds=24, rng=np.random.default_rng(0))
    results = results_of(plan_row(prompts), twice(rows))
    assert shift_of(results).verdict == "harm"
    assert shift_of(results).caps == ("guard explicit failed on explicit",)
    assert results.answer.startswith("A guard failed")
    assert [guard.passed for guard in results.guards] == sorted(guard.passed for guard in results.guards)
    assert results.guards[0].evidence == "harm shown"


@pytest.mark.parametrize(
    ("changes", "cap"),
    [
        ({"tier": "smoke"}, "tier smoke tests the plumbing only"),
        ({"training_reader": "oracle", "reader": "oracle"}, "the reader was used in training"),
    ],
)
def test_caps_hold_a_reduction_down_to_suggestive(changes: dict[str, Any], cap: str) -> None:
    free = shift_of(run([0.95] * 12, [0.6] * 12))
    assert free.verdict in ("improved", "partial", "on target")
    capped = shift_of(run([0.95] * 12, [0.6] * 12, **changes))
    assert (capped.verdict, capped.caps) == ("suggestive", (cap,))


def test_more_unread_images_in_one_arm_hold_a_reduction_down() -> None:
    prompts = heldout(12)
    shares = {"base": {row["id"]: 0.95 for row in prompts}, "adapted": {row["id"]: 0.6 for row in prompts}}
    rows = drawn_readings(prompts, shares, num_seeds=20, rng=np.random.default_rng(0))
    for row in rows:
        if row["arm"] == "adapted" and row["seed"] < 2:
            row.update(value=None, unread="no person found")
    results = results_of(plan_row(prompts), twice(rows))
    assert shift_of(results).caps == ("the arms differ in unread images",)
    unread = results.find("unread", suite="heldout", arm="shift")
    bounds = results.find("bounds:woman", suite="heldout", arm="adapted")
    share = results.find("share:woman", suite="heldout", arm="adapted")
    assert unread is not None
    assert bounds is not None
    assert share is not None
    assert unread.value == pytest.approx(0.1)
    assert bounds.value is None
    # By hand: of 20 images 18 were read, w of them women: between w / 20 and (w + 2) / 20.
    assert share.value is not None
    assert bounds.low == pytest.approx(share.value * 0.9)
    assert bounds.high == pytest.approx(share.value * 0.9 + 0.1)


def test_a_target_that_is_not_even_is_judged_by_the_distance_to_it_not_by_the_gap() -> None:
    """From 25 % to 75 % women with a target of 75 %: the gap stays, the distance to target goes."""
    target = [{"attribute": "presentation", "concept": "*", "shares": [0.75, 0.25], "source": "a table"}]
    verdict = shift_of(run([0.25] * 30, [0.75] * 30, num_seeds=32, targets=target))
    assert verdict.verdict == "on target"
    assert "distance to target in presentation" in verdict.sentence


def joint_run(*, joints: bool) -> Results:
    """Three attributes, each with even shares, but only two of their 36 cells (6 x 3 x 2) ever appear."""
    attributes = {"a": [f"a{n}" for n in range(6)], "b": ["b0", "b1", "b2"], "c": ["c0", "c1"]}
    prompts, rng = heldout(8), np.random.default_rng(0)
    rows = []
    for row in prompts:
        for arm in ("base", "adapted"):
            for seed in range(16):
                cell = ("a1", "b0", "c0") if rng.random() < 0.5 else ("a4", "b2", "c1")
                rows += [
                    reading_row(row["id"], seed, arm, value, attribute=name)
                    for name, value in zip(attributes, cell, strict=True)
                ]
    content = plan_row(
        prompts,
        primary={"attribute": "c", "suite": "heldout"},
        attributes=[{"name": name, "values": values} for name, values in attributes.items()],
        targets=[
            {"attribute": name, "concept": "*", "shares": [1 / len(values)] * len(values)}
            for name, values in attributes.items()
        ],
    )
    return results_of({**content, "joints": [["a", "b", "c"], ["b", "c"]]} if joints else content, rows)


def test_two_of_thirty_six_cells_of_a_joint_are_biased_though_an_attribute_is_even() -> None:
    results = joint_run(joints=True)
    words = {(v.attribute, v.arm): v.verdict for v in results.verdicts}
    assert words["c", "base"] != "biased"
    assert words["a × b × c", "base"] == "biased"
    distance = results.find("distance_sq", suite="heldout", arm="base", attribute="a × b × c")
    assert distance is not None
    assert distance.value is not None
    # By hand: two cells at one half, 34 empty, against 1/36 each.
    assert distance.value == pytest.approx(2 * (0.5 - 1 / 36) ** 2 + 34 / 36**2, abs=0.05)
    cells = [e for e in results.estimates if e.attribute == "a × b × c" and e.name.startswith("share:")]
    assert len({e.name for e in cells}) == 36


def test_a_subject_of_whom_one_part_was_not_read_is_unread_in_the_joint() -> None:
    prompts = heldout(2)
    rows = [
        reading_row(row["id"], seed, arm, value, attribute=name)
        for row in prompts
        for arm in ("base", "adapted")
        for seed in range(4)
        for name, value in (("x", "x0"), ("y", None if seed == 0 else "y1"))
    ]
    content = plan_row(
        prompts,
        primary={"attribute": "x", "suite": "heldout"},
        attributes=[{"name": "x", "values": ["x0", "x1"]}, {"name": "y", "values": ["y0", "y1"]}],
        targets=[],
        joints=[["x", "y"]],
    )
    share = results_of(content, rows).find("share:x0 × y1", suite="heldout", arm="base", attribute="x × y")
    assert share is not None
    assert (share.value, share.n_images, share.n_unread) == (1.0, 8, 2)


def test_crossing_prompts_are_listed_and_noise_is_not() -> None:
    base = [0.02] * 3 + [0.5] * 9
    results = run(base, [0.98] * 3 + [0.5] * 9, num_seeds=32)
    assert {entry.concept for entry in results.overshoot} == {"c0", "c1", "c2"}
    assert results.overshoot[0].base < 0.3 < 0.8 < results.overshoot[0].adapted
    assert run([0.5] * 12, [0.5] * 12).overshoot == ()


def test_a_changed_prompt_is_marked_after_holms_correction_and_equal_ones_are_not() -> None:
    results = run([0.5] * 10, [0.95] + [0.5] * 9, num_seeds=40)
    assert [test.concept for test in results.prompt_tests if test.changed] == ["c0"]
    assert all(test.p_holm >= test.p for test in results.prompt_tests)


def test_marks_are_rare_when_nothing_changed() -> None:
    """60 folders of 12 prompts with independent arms: Holm's adjustment marks a prompt in at most 5 %."""
    marked = 0
    prompts = heldout(12)
    shares = {row["id"]: 0.6 for row in prompts}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        one, other = (
            drawn_readings(prompts, {"base": shares, "adapted": shares}, num_seeds=12, rng=rng) for _ in range(2)
        )
        rows = [row for row in one if row["arm"] == "base"] + [row for row in other if row["arm"] == "adapted"]
        marked += any(test.changed for test in results_of(plan_row(prompts), rows).prompt_tests)
    assert marked <= 9  # binomial 99.9 % at 5 %


def test_two_runs_of_one_generator_do_not_seem_to_move_towards_the_target() -> None:
    """The direction of a pair is judged by the base's other images, so towards and away are as frequent."""
    prompts, balance = heldout(20), []
    shares = {row["id"]: 0.5 + 0.3 * (-1) ** index for index, row in enumerate(prompts)}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        one, other = (
            drawn_readings(prompts, {"base": shares, "adapted": shares}, num_seeds=16, rng=rng) for _ in range(2)
        )
        rows = [row for row in one if row["arm"] == "base"] + [row for row in other if row["arm"] == "adapted"]
        results = results_of(plan_row(prompts), rows)
        parts = [results.find(name, suite="heldout", arm="both") for name in ("toward", "away", "changed", "phi")]
        values = [part.value for part in parts if part is not None and part.value is not None]
        assert values[0] + values[1] <= values[2] + 1e-12
        assert abs(values[3]) < 0.25
        balance.append(values[0] - values[1])
    assert abs(np.mean(balance)) < 0.03


@pytest.mark.parametrize("paired", [True, False])
def test_swapping_the_arms_negates_every_shift_exactly(paired: bool) -> None:
    prompts = heldout(7)
    rng = np.random.default_rng(3)
    shares = {arm: {row["id"]: float(rng.random()) for row in prompts} for arm in ("base", "adapted")}
    rows = drawn_readings(prompts, shares, num_seeds=13, rng=rng)
    if not paired:
        rows = [row for row in rows if row["arm"] == "base" or row["seed"] < 9]
    plan = plan_row(prompts, paired=paired)
    one, other = results_of(plan, rows), results_of(plan, [{**row, "arm": OTHER[row["arm"]]} for row in rows])
    found = {(e.name, e.suite, e.concept): e for e in other.estimates if e.arm == "shift"}
    compared = 0
    for estimate in one.estimates:
        if estimate.arm == "shift":
            mirror = found[estimate.name, estimate.suite, estimate.concept]
            ends = (None if mirror.high is None else -mirror.high, None if mirror.low is None else -mirror.low)
            assert (estimate.low, estimate.high) == ends
            assert estimate.value == (None if mirror.value is None else -mirror.value)
            compared += 1
    assert compared > 20
    assert [test.p for test in one.prompt_tests] == [test.p for test in other.prompt_tests]
    assert [test.p for test in one.permutation] == [test.p for test in other.permutation]


def test_shuffled_lines_give_the_same_bytes(tmp_path: Path) -> None:
    prompts = heldout(6)
    rng = np.random.default_rng(5)
    shares = {arm: {row["id"]: float(rng.random()) for row in prompts} for arm in ("base", "adapted")}
    rows = twice(drawn_readings(prompts, shares, num_seeds=9, rng=rng))
    texts = set()
    for order in (range(len(rows)), rng.permutation(len(rows)), rng.permutation(len(rows))):
        folder = write_folder(tmp_path / "run", plan_row(prompts), [rows[index] for index in order])
        texts.add(json.dumps(results_json(analyse_folder(folder)), default=str))
    assert len(texts) == 1


def test_a_reading_that_stands_there_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    prompts = heldout(3)
    shares = {arm: {row["id"]: 0.5 for row in prompts} for arm in ("base", "adapted")}
    rows = drawn_readings(prompts, shares, num_seeds=4, rng=np.random.default_rng(0))
    folder = write_folder(tmp_path / "run", plan_row(prompts), [*rows, rows[5]])
    with pytest.raises(ValueError, match="two readings of presentation by reader oracle; keep one line"):
        analyse_folder(folder)


def test_the_adapter_at_other_scales_is_estimated_and_unknown_arms_are_named() -> None:
    prompts = heldout(6)
    shares = {"base": {row["id"]: 0.9 for row in prompts}, "adapted": {row["id"]: 0.5 for row in prompts}}
    rows = drawn_readings(prompts, shares, num_seeds=8, rng=np.random.default_rng(0))
    half = [{**row, "arm": "adapted@0.5"} for row in rows if row["arm"] == "base" and row["seed"] < 4]
    plan = plan_row(prompts, dose={"scales": [0.5, 1.25], "num_seeds": 4})
    results = results_of(plan, rows + half)
    dose = results.find("share:woman", suite="heldout", arm="adapted@0.5")
    assert dose is not None
    women = [row["value"] == VALUES[0] for row in half]
    assert dose.value == pytest.approx(sum(women) / len(women))
    assert dose.n_images == 24
    assert results.find("rms", suite="heldout", arm="adapted@0.5") is not None
    assert results.find("gap", suite="heldout", arm="adapted@1.25") is None  # planned, not read
    assert results.paired
    with pytest.raises(ValueError, match=r"arms are \['base', 'adapted'\]"):
        results_of(plan_row(prompts), rows + half)


def test_a_run_that_stopped_early_shows_its_confidence_sequence(tmp_path: Path) -> None:
    prompts = heldout(6)
    shares = {"base": {row["id"]: 0.95 for row in prompts}, "adapted": {row["id"]: 0.4 for row in prompts}}
    rows = drawn_readings(prompts, shares, num_seeds=8, rng=np.random.default_rng(0))
    folder = write_folder(tmp_path / "run", plan_row(prompts, sequential={"width": None}), twice(rows))
    look = {"value": "woman", "low": -0.9, "high": -0.1, "level": 0.95, "how": "betting"}
    lines = [{"round": 1, "stopped": None, **look}, {"round": 2, "stopped": "changed", **look}]
    (folder / "sequential.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = analyse_folder(folder)
    for value, ends in (("woman", (-0.9, -0.1)), ("man", (0.1, 0.9))):
        shift = results.find(f"share:{value}", suite="heldout", arm="shift")
        assert shift is not None
        assert (shift.low, shift.high) == ends
        assert shift.how == "stopped early: betting"
    assert shift_of(results).caps == ("the run stopped early",)
    lines[1]["stopped"] = "exhausted"
    (folder / "sequential.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shift = analyse_folder(folder).find("share:woman", suite="heldout", arm="shift")
    assert shift is not None
    assert shift.how.startswith("t interval")


def test_excluded_prompts_and_the_self_test_are_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = heldout(3)
    shares = {arm: {row["id"]: 0.5 for row in prompts} for arm in ("base", "adapted")}
    rows = drawn_readings(prompts, shares, num_seeds=4, rng=np.random.default_rng(0))
    excluded = [{"prompt": prompt_row("heldout", "pilot"), "seeds": 4, "split": "train"}]
    folder = write_folder(tmp_path / "run", plan_row(prompts, excluded=excluded), rows)
    monkeypatch.setenv("EVENHAND_CACHE", str(tmp_path / "cache"))
    results = analyse_folder(folder)
    assert results.selftest is None
    assert results.excluded == ("a portrait of a pilot, wording 0",)
    assert "Prompts left out because their text was used in training: 1." in results.notes
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "selftest.json").write_text('{"passed": true, "failed": []}')
    assert analyse_folder(folder).selftest == {"passed": True, "failed": []}
