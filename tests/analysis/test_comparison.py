"""Comparisons of two runs with known truth. Expected values are counted from the rows that the test wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.analysis.comparison import Comparison, Difference, compare
from evenhand.report.comparison_page import comparison_md
from tests.folders import VALUES, plan_row, prompt_row, reading_row, write_folder

NUM_CONCEPTS, NUM_SEEDS = 12, 8
PROMPTS = [prompt_row("heldout", f"c{index}") for index in range(NUM_CONCEPTS)]
PROMPTS += [prompt_row("explicit", f"c{index}", expects={"presentation": "woman"}) for index in range(NUM_CONCEPTS)]
Rows = list[dict[str, Any]]


def generation(**changes: Any) -> dict[str, Any]:
    names = ["base", "base_fingerprint", "encoders_fingerprint", "adapter_sha256", "dtype", "device"]
    numbers = {"batch_size": 2, "steps": 1, "guidance": 1.0, "height_px": 8, "width_px": 8, "adapter_scale": 1.0}
    seeds = {row["id"]: list(range(NUM_SEEDS)) for row in PROMPTS}
    return {**dict.fromkeys(names, "x"), **numbers, "seeds": seeds, **changes}


def drawn(shares: Mapping[str, Sequence[float]], *, rng: np.random.Generator) -> Rows:
    """Readings of both arms; ``shares[arm]`` is the share of the first value in each held-out prompt."""
    rows = []
    for arm, by_prompt in shares.items():
        for row, share in zip(PROMPTS[:NUM_CONCEPTS], by_prompt, strict=True):
            for seed in range(NUM_SEEDS):
                rows.append(reading_row(row["id"], seed, arm, VALUES[int(rng.random() >= share)]))
    return rows


def explicit(arm: str, obeyed: Sequence[int]) -> Rows:
    """Readings of the explicit prompts: so many of the seeds of each are obeyed."""
    return [
        reading_row(row["id"], seed, arm, VALUES[int(seed >= count)])
        for row, count in zip(PROMPTS[NUM_CONCEPTS:], obeyed, strict=True)
        for seed in range(NUM_SEEDS)
    ]


def folder(tmp_path: Path, name: str, rows: Rows, **changes: Any) -> Path:
    return write_folder(tmp_path / name, plan_row(PROMPTS, **changes), rows)


def runs(tmp_path: Path, *, adapted_a: float, adapted_b: float, seed: int = 0) -> tuple[Path, Path]:
    """Two runs on one base in which 90 % show the first value; explicit prompts are obeyed alike."""
    rng = np.random.default_rng(seed)
    base = drawn({"base": [0.9] * NUM_CONCEPTS}, rng=rng)
    named = [*explicit("base", [7] * NUM_CONCEPTS), *explicit("adapted", [6] * NUM_CONCEPTS)]
    folders = []
    for name, share in (("a", adapted_a), ("b", adapted_b)):
        adapted = drawn({"adapted": [share] * NUM_CONCEPTS}, rng=rng)
        changes = {"generation": generation(adapter_sha256=name)}
        folders.append(folder(tmp_path, name, [*base, *adapted, *named], **changes))
    return folders[0], folders[1]


def find(comparison: Comparison, name: str, suite: str = "heldout") -> Difference:
    (found,) = [entry for entry in comparison.differences if (entry.name, entry.suite) == (name, suite)]
    return found


def shares_of(path: Path, arm: str) -> np.ndarray[Any, Any]:
    """The share of the first value in each held-out prompt, counted from the file."""
    rows = [json.loads(line) for line in (path / "readings.jsonl").read_text().splitlines()]
    return np.array(
        [
            np.mean(
                [row["value"] == VALUES[0] for row in rows if row["prompt_id"] == prompt["id"] and row["arm"] == arm]
            )
            for prompt in PROMPTS[:NUM_CONCEPTS]
        ]
    )


def test_a_difference_is_that_of_the_shifts_with_a_t_interval_over_prompts(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    entry = find(compare(run_a, run_b), f"share:{VALUES[0]}")
    shift_a = shares_of(run_a, "adapted") - shares_of(run_a, "base")
    shift_b = shares_of(run_b, "adapted") - shares_of(run_b, "base")
    each = shift_b - shift_a
    half = 2.201 * each.std(ddof=1) / NUM_CONCEPTS**0.5  # 97.5 % quantile of t with 11 degrees of freedom, from a table
    assert entry.value == pytest.approx(each.mean())
    assert (entry.shift_a, entry.shift_b) == (pytest.approx(shift_a.mean()), pytest.approx(shift_b.mean()))
    assert entry.low == pytest.approx(each.mean() - half, abs=1e-4)
    assert entry.high == pytest.approx(each.mean() + half, abs=1e-4)
    assert (entry.n_prompts, entry.n_pairs) == (NUM_CONCEPTS, NUM_CONCEPTS * NUM_SEEDS)


def test_a_clearly_better_adapter_is_named_and_what_is_alike_is_tied(tmp_path: Path) -> None:
    comparison = compare(*runs(tmp_path, adapted_a=0.9, adapted_b=0.5))
    gap = find(comparison, "gap")
    assert (gap.verdict, gap.better) == ("run b is lower", None)
    distance = find(comparison, "distance_sq")
    assert (distance.verdict, distance.better) == ("run b is lower", "run_b")
    assert comparison.answer.endswith("Run b comes nearer to the target.")
    share = find(comparison, f"share:{VALUES[0]}")
    assert (share.verdict, share.better) == ("run b is lower", None)
    obeyed = find(comparison, "shown", "explicit")
    assert (obeyed.value, obeyed.verdict, obeyed.better) == (0.0, "tied", None)
    assert obeyed.shift_a == obeyed.shift_b == pytest.approx(-1 / 8)


def test_without_a_target_neither_direction_is_better(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.9, adapted_b=0.5)
    for path in (run_a, run_b):
        plan = json.loads((path / "plan.json").read_text())
        (path / "plan.json").write_text(json.dumps({**plan, "targets": []}))
    comparison = compare(run_a, run_b)
    assert comparison.answer.endswith("Run b is lower.")
    assert {entry.better for entry in comparison.differences} == {None}


def test_a_run_is_tied_with_itself(tmp_path: Path) -> None:
    run_a, _ = runs(tmp_path, adapted_a=0.9, adapted_b=0.5)
    comparison = compare(run_a, run_a)
    assert {entry.value for entry in comparison.differences} == {0.0}
    assert {entry.verdict for entry in comparison.differences} == {"tied"}
    assert comparison.answer.endswith("The two are tied.")
    assert "Both runs are of the same adapter." in comparison.notes


def test_one_adapter_at_two_scales_may_be_compared(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.9, adapted_b=0.5)
    plan = json.loads((run_b / "plan.json").read_text())
    plan["generation"] |= {"adapter_scale": 0.5, "adapter_sha256": "a"}
    (run_b / "plan.json").write_text(json.dumps(plan))
    notes = compare(run_a, run_b).notes
    assert "Both runs are of the same adapter." in notes
    assert "Adapters are scaled by 1 in run a and 0.5 in run b." in notes


def test_exchanging_the_runs_negates_every_difference(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    forward, backward = compare(run_a, run_b).differences, compare(run_b, run_a).differences
    for one, other in zip(forward, backward, strict=True):
        assert one.value is not None
        assert other.value == pytest.approx(-one.value)
        assert (one.shift_a, one.shift_b) == (other.shift_b, other.shift_a)
        assert (one.low is None) or other.high == pytest.approx(-one.low)


def test_equal_adapters_are_told_apart_as_seldom_as_the_level_says(tmp_path: Path) -> None:
    """200 pairs of equal adapters: at 5 % between 2 and 19 false differences, the 99 % band of the binomial."""
    false = {"gap": 0, "distance_sq": 0, f"share:{VALUES[0]}": 0}
    for seed in range(200):
        comparison = compare(*runs(tmp_path / str(seed), adapted_a=0.7, adapted_b=0.7, seed=seed))
        for name in false:
            false[name] += find(comparison, name).verdict != "tied"
    assert all(2 <= count <= 19 for count in false.values()), false


def test_only_images_that_all_four_arms_have_read_are_compared(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    lines = (run_b / "readings.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    first = PROMPTS[0]["id"]
    for row in rows:
        if (row["prompt_id"], row["seed"], row["arm"]) == (first, 0, "adapted"):
            row.update(value=None, unread="no person found")
    gone = [row for row in rows if (row["prompt_id"], row["seed"]) != (first, 1)]
    (run_b / "readings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gone))
    comparison = compare(run_a, run_b)
    assert find(comparison, "gap").n_pairs == NUM_CONCEPTS * NUM_SEEDS - 2
    unread = find(comparison, "unread")
    assert unread.n_pairs == NUM_CONCEPTS * NUM_SEEDS - 1
    assert unread.value == pytest.approx(1 / 7 / NUM_CONCEPTS)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"margins": {"explicit": 0.2}}, ["margins.explicit", "margins.fixed"]),
        ({"alpha": 0.1}, ["alpha"]),
        ({"generation": generation(steps=5)}, ["generation.steps"]),
        ({"generation": generation(environment={"versions": {"torch": "1"}})}, ["generation.environment"]),
        ({"generation": generation(seeds={row["id"]: [9, 10] for row in PROMPTS})}, ["generation.seeds"]),
        ({"prompts": PROMPTS[1:], "generation": generation()}, ["prompts"]),
        ({"suite": {"name": "other", "version": 2}}, ["suite"]),
    ],
)
def test_plans_that_differ_in_more_than_the_adapter_are_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], fields: list[str]
) -> None:
    run_a, _ = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    rows = [json.loads(line) for line in (run_a / "readings.jsonl").read_text().splitlines()]
    other = write_folder(tmp_path / "other", {**plan_row(PROMPTS, generation=generation()), **changes}, rows)
    with pytest.raises(ValueError, match="ask different questions: their plans differ in") as raised:
        compare(run_a, other)
    assert all(field in str(raised.value) for field in fields)


def test_what_one_adapters_training_excluded_is_left_out_of_both(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    plan = json.loads((run_b / "plan.json").read_text())
    first = plan["prompts"].pop(0)
    del plan["generation"]["seeds"][first["id"]]
    plan["excluded"] = [{"prompt": first, "seeds": NUM_SEEDS, "split": "train"}]
    (run_b / "plan.json").write_text(json.dumps(plan))
    lines = (run_b / "readings.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["prompt_id"] != first["id"]]
    (run_b / "readings.jsonl").write_text("".join(f"{line}\n" for line in kept))
    comparison = compare(run_a, run_b)
    assert find(comparison, "gap").n_prompts == NUM_CONCEPTS - 1
    assert any("1 prompts of run a, 0 of run b" in note for note in comparison.notes)


def test_prompts_that_all_differ_by_the_same_give_no_interval(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=1.0, adapted_b=0.0)
    entry = find(compare(run_a, run_b), f"share:{VALUES[0]}")
    assert (entry.value, entry.low, entry.verdict) == (-1.0, None, "not comparable")


def test_readings_of_two_readers_are_not_compared(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    text = (run_b / "readings.jsonl").read_text()
    (run_b / "readings.jsonl").write_text(text.replace('"oracle"', '"another"'))
    with pytest.raises(ValueError, match="is read by oracle, .* by another"):
        compare(run_a, run_b)


def test_failed_guards_stand_beside_the_comparison(tmp_path: Path) -> None:
    run_a, run_b = runs(tmp_path, adapted_a=0.8, adapted_b=0.5)
    guards = [{"name": "explicit", "suite": "explicit", "passed": False}, {"name": "x", "suite": "y", "passed": True}]
    (run_b / "results.json").write_text(json.dumps({"guards": guards}))
    comparison = compare(run_a, run_b)
    assert (comparison.run_a.failed_guards, comparison.run_b.failed_guards) == (None, ("explicit (explicit)",))
    text = comparison_md(comparison)
    assert "failed guards: explicit (explicit)" in text
    assert "failed guards: not known" in text
    assert all(f"| {entry.suite} | {entry.attribute} | {entry.name} |" in text for entry in comparison.differences)
