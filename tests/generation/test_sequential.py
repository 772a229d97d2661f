"""Stopping early, on readings with known shifts: a large one is seen soon, none is not, and looking costs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.evaluation.folder import rounds, rounds_made
from evenhand.evaluation.plan import GenerationPlan, Plan, Sequential, parse_plan
from evenhand.generation.sequential import looks, until_settled
from evenhand.records import Reading
from evenhand.stats.sequential import Betting
from tests.folders import plan_row, prompt_row, reading_row

NUM_PROMPTS, NUM_SEEDS = 10, 16


def planned(*, width: float | None = None, **changes: Any) -> Plan:
    """Ten headline prompts with 16 seeds, and a car with two."""
    prompts = [prompt_row("heldout", f"c{index}") for index in range(NUM_PROMPTS)] + [prompt_row("unrelated", "car")]
    seeds = {row["id"]: tuple(range(NUM_SEEDS if row["suite"] == "heldout" else 2)) for row in prompts}
    fields = ["base", "base_fingerprint", "encoders_fingerprint", "adapter_sha256", "dtype", "device"]
    generation = GenerationPlan(
        seeds=seeds,
        batch_size=4,
        steps=1,
        guidance=1.0,
        height_px=8,
        width_px=8,
        adapter_scale=1.0,
        **dict.fromkeys(fields, "x"),
    )
    plan = parse_plan(plan_row(prompts, reader="oracle", **changes), "test")
    return replace(plan, generation=generation, sequential=Sequential(width=width))


def drawn(plan: Plan, shares: Mapping[str, float], *, seed: int = 0) -> list[Reading]:
    """Readings in which the chance of ``woman`` in an arm is its share; the arms are independent."""
    rng = np.random.default_rng(seed)
    return [
        Reading(**reading_row(prompt.id, number, arm, "woman" if rng.random() < shares[arm] else "man"))
        for arm in plan.arms
        for prompt, number in rounds(plan, arm)[0] + [image for later in rounds(plan, arm)[1:] for image in later]
    ]


def write(folder: Path, readings: list[Reading]) -> None:
    fields = ("prompt_id", "seed", "arm", "subject", "reader", "attribute", "value", "probs", "unread")
    rows = [{name: getattr(reading, name) for name in fields} for reading in readings]
    (folder / "readings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_large_shift_stops_the_run_early_and_the_sequence_covers_it() -> None:
    plan = planned()
    record = looks(plan, drawn(plan, {"base": 0.1, "adapted": 0.6}), NUM_SEEDS)
    last = record[-1]
    assert last.stopped == "changed"
    assert [look.stopped for look in record[:-1]] == [None] * (len(record) - 1)
    assert last.round == len(record) < NUM_SEEDS / 2
    assert last.e_value >= 20
    assert last.low is not None
    assert last.high is not None
    assert 0 < last.low < 0.5 < last.high < 1
    assert last.level == 0.95


def test_a_record_is_that_of_the_betting_played_by_hand() -> None:
    plan = planned()
    readings = drawn(plan, {"base": 0.3, "adapted": 0.4})
    women = {(r.arm, r.prompt_id, r.seed): float(r.value == "woman") for r in readings}
    betting = Betting(0.05)
    for look in looks(plan, readings, 3):
        seed = look.round - 1
        ids = [f"heldout-c{index}-00" for index in range(NUM_PROMPTS)]
        differences = np.array([women["adapted", name, seed] - women["base", name, seed] for name in ids])
        betting.update(differences)
        assert look.shift == pytest.approx(differences.mean())
        assert look.e_value == pytest.approx(betting.e_value)
        assert (look.mean, look.low, look.high) == tuple(betting.confidence_sequence()[:3])
        assert (look.n_pairs, look.n_read) == (10, 10)


def test_two_equal_arms_run_to_the_last_seed() -> None:
    plan = planned()
    readings = drawn(plan, {"base": 0.5, "adapted": 0.5})
    same = [replace(r, value=readings[index % (len(readings) // 2)].value) for index, r in enumerate(readings)]
    record = looks(plan, same, NUM_SEEDS)
    assert len(record) == NUM_SEEDS
    assert record[-1].stopped == "exhausted"
    assert {look.shift for look in record} == {0.0}
    assert all(look.e_value <= 1 for look in record)


def test_looking_after_every_round_does_not_find_changes_that_are_not_there() -> None:
    """200 runs without a shift: at most 5 % may stop for one; with 2.58 standard errors that is 9 %, 18 runs."""
    plan = planned()
    shares = {"base": 0.4, "adapted": 0.4}
    stops = [looks(plan, drawn(plan, shares, seed=seed), NUM_SEEDS)[-1].stopped for seed in range(200)]
    assert stops.count("changed") <= 18
    assert stops.count("changed") + stops.count("exhausted") == 200


def test_a_narrow_sequence_ends_a_run_that_asked_for_it() -> None:
    readings = drawn(planned(), {"base": 0.5, "adapted": 0.5})
    record = looks(planned(width=0.9), readings, NUM_SEEDS)
    assert record[-1].stopped == "narrow"
    widths = [look.high - look.low for look in record if look.high is not None and look.low is not None]
    assert widths[-1] <= 0.9 < widths[-2]


def test_three_values_are_each_looked_at_with_a_third_of_alpha() -> None:
    values = ["light", "medium", "dark"]
    target = {"attribute": "presentation", "concept": "*", "shares": [0.2, 0.3, 0.5], "source": "x"}
    plan = planned(attributes=[{"name": "presentation", "values": values}], targets=[target])
    rng = np.random.default_rng(0)
    readings = [replace(r, value=values[rng.integers(3)]) for r in drawn(plan, {"base": 0.5, "adapted": 0.5})]
    record = looks(plan, readings, 2)
    assert [(look.round, look.value) for look in record] == [(n, value) for n in (1, 2) for value in values]
    assert {look.level for look in record} == {1 - 0.05 / 3}
    assert sum(look.shift for look in record[:3]) == pytest.approx(0)


def test_unread_pairs_count_as_no_shift_and_other_readers_do_not_count() -> None:
    plan = planned()
    readings = drawn(plan, {"base": 0.0, "adapted": 1.0})
    unread = [
        replace(r, value=None, unread="no person found") if r.arm == "base" and r.prompt_id < "heldout-c5" else r
        for r in readings
    ]
    others = [replace(r, reader="another", value="man") for r in readings]
    (look,) = looks(plan, unread + others, 1)
    assert (look.n_pairs, look.n_read, look.shift) == (10, 5, 0.5)


def test_several_subjects_count_by_their_share() -> None:
    plan = planned()
    readings = drawn(plan, {"base": 0.0, "adapted": 0.0})
    second = [replace(r, subject=1, value="woman" if r.arm == "adapted" else "man") for r in readings]
    (look,) = looks(plan, readings + second, 1)
    assert look.shift == 0.5


def test_the_loop_stops_where_its_record_says_and_again_after_a_kill(tmp_path: Path) -> None:
    plan = planned()
    write(tmp_path, drawn(plan, {"base": 0.1, "adapted": 0.6}))
    expected = looks(plan, drawn(plan, {"base": 0.1, "adapted": 0.6}), NUM_SEEDS)[-1].round
    assert list(until_settled(plan, tmp_path, is_main=True, wait=lambda: None)) == list(range(1, expected + 1))
    record = (tmp_path / "sequential.jsonl").read_bytes()
    assert rounds_made(plan, tmp_path) == expected
    # A kill after the second round: what is written again is the same, and a helping process only reads it.
    (tmp_path / "sequential.jsonl").write_bytes(b"\n".join(record.split(b"\n")[:2]) + b"\n")
    assert len(list(until_settled(plan, tmp_path, is_main=True, wait=lambda: None))) == expected
    assert (tmp_path / "sequential.jsonl").read_bytes() == record
    assert len(list(until_settled(plan, tmp_path, is_main=False, wait=lambda: None))) == 1


def test_a_plan_that_is_not_sequential_has_one_round_of_everything(tmp_path: Path) -> None:
    plan = replace(planned(), sequential=None)
    assert list(until_settled(plan, tmp_path, is_main=True, wait=lambda: None)) == [None]
    assert rounds_made(plan, tmp_path) is None
    assert not (tmp_path / "sequential.jsonl").exists()
