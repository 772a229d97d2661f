"""The standing of competitors whose true shares the test chooses; folders as the programs leave them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evenhand.method_benchmark.measured import Measured, Sampling, measured
from evenhand.method_benchmark.names import BASE
from evenhand.method_benchmark.standings import Standing, Table, comparable, standing
from evenhand.method_benchmark.summaries import held_all
from evenhand.stats.distances import distance_sq
from tests.method_benchmark.made import NUM_PROMPTS, PROMPTS, a_run, drawn

IDS = [str(number) for number in range(NUM_PROMPTS)]


def of(runs: list[Measured]) -> Standing:
    kept, left = comparable(runs, level=0.95)
    assert not left
    return standing("occupations", kept, bars={}, level=0.95)


def the_table(runs: list[Measured]) -> Table:
    (table,) = of(runs).tables
    return table


def three_methods(home: Path) -> list[Measured]:
    runs = [a_run(home, "near", seed, 0.5) for seed in range(3)]
    runs += [a_run(home, "also_near", seed, 0.5, passed=seed != 1) for seed in range(3)]
    runs += [a_run(home, "far", seed, 0.8) for seed in range(3)]
    return [measured(run, {}) for run in [*runs, a_run(home, "untrained", None, 0.75)]]


def test_a_runs_distances_are_the_unbiased_ones_of_its_readings(tmp_path: Path) -> None:
    run = a_run(tmp_path, "far", 0, 0.8)
    found = measured(run, {}).scores["heldout", "presentation"]
    rows = [json.loads(line) for line in (run.folder / "evaluation" / "readings.jsonl").read_text().splitlines()]
    for prompt in PROMPTS[:3]:
        shown = [row["value"] for row in rows if row["prompt_id"] == prompt["id"] and row["arm"] == "adapted"]
        images = np.array([[value == "woman", value == "man"] for value in shown], dtype=float)
        assert found.adapted[prompt["id"]] == pytest.approx(distance_sq(images, np.array([0.5, 0.5])))


def test_the_near_ones_lead_together_and_the_far_ones_do_not(tmp_path: Path) -> None:
    one = of(three_methods(tmp_path))
    (table,) = one.tables
    tied = {entry.competitor: entry.tied for entry in table.entries}
    assert tied == {"near": True, "also_near": True, "far": False, "untrained": False, BASE: False}
    assert [entry.competitor for entry in table.entries][-1] == BASE
    by_name = {entry.competitor: entry for entry in table.entries}
    # 0.8 and 0.2 against an even target: the root of 2 * 0.3^2, by hand
    assert by_name["far"].rms.low is not None
    assert by_name["far"].rms.high is not None
    assert by_name["far"].rms.low < (2 * 0.3**2) ** 0.5 < by_name["far"].rms.high
    assert by_name["near"].distance_sq.low is not None
    assert by_name["near"].distance_sq.low < 0
    assert (by_name["far"].num_trainings, by_name["untrained"].num_trainings) == (3, 0)
    assert one.num_trainings == {"near": 3, "also_near": 3, "far": 3, "untrained": 0}


def test_the_nearest_that_held_every_guard_is_named_and_ties_with_it_are_made_with_it() -> None:
    rng = np.random.default_rng(0)
    cheat = [drawn("cheat", seed, rng.normal(0.0, 0.01, NUM_PROMPTS), IDS, passed=seed > 0) for seed in range(3)]
    fair = [drawn("fair", seed, rng.normal(0.2, 0.01, NUM_PROMPTS), IDS) for seed in range(3)]
    also = [drawn("also", seed, rng.normal(0.2, 0.01, NUM_PROMPTS), IDS) for seed in range(3)]
    one = of([*cheat, *fair, *also])
    (table,) = one.tables
    assert not held_all(one.summary, "cheat")
    assert table.entries[0].competitor == "cheat"
    assert table.nearest_held in ("fair", "also")
    by_name = {entry.competitor: entry for entry in table.entries}
    assert (by_name["fair"].tied, by_name["also"].tied) == (False, False)
    assert (by_name["fair"].tied_held, by_name["also"].tied_held, by_name[BASE].tied_held) == (True, True, False)


@pytest.mark.parametrize("num_of_b", [3, 1])
def test_two_competitors_who_are_the_same_are_seldom_told_apart(num_of_b: int) -> None:
    """The control where nothing may be found: equal truths, trainings that differ, drawn by numpy, 100 benchmarks."""
    rng, apart = np.random.default_rng(0), 0
    for _ in range(100):
        runs = [
            drawn(name, seed, rng.normal(0.1 + rng.normal(0, 0.05), 0.1, NUM_PROMPTS), IDS)
            for name, count in (("a", 3), ("b", num_of_b))
            for seed in range(count)
        ]
        apart += not all(entry.tied for entry in the_table(runs).entries if entry.competitor != BASE)
    assert stats.binomtest(apart, 100, 0.05, alternative="greater").pvalue > 1e-3


def test_only_prompts_that_all_have_are_compared_and_how_many_are_not_is_kept() -> None:
    ids = [str(number) for number in range(4)]
    runs = [drawn("a", 0, np.array([0.0, 0.0, 0.0, 1.0]), ids), drawn("b", 0, np.array([0.1, 0.1, 0.1]), ids[:3])]
    table = the_table(runs)
    assert (table.n_prompts, table.num_asked, table.entries[0].competitor) == (3, 4, "a")


def test_who_has_no_distance_at_all_is_named_and_takes_nobody_elses() -> None:
    unread = replace(drawn("unread", 0, np.zeros(NUM_PROMPTS), IDS), scores={})
    table = the_table([drawn("a", 0, np.zeros(NUM_PROMPTS), IDS), unread])
    assert (table.n_prompts, table.absent) == (NUM_PROMPTS, ("unread",))
    assert {entry.competitor for entry in table.entries} == {"a", BASE}


def test_what_answered_another_question_is_left_out_and_said(tmp_path: Path) -> None:
    other = {"targets": [{"attribute": "presentation", "concept": "*", "shares": [0.6, 0.4], "source": "a choice"}]}
    runs = [a_run(tmp_path, "a", seed, 0.5) for seed in range(2)] + [a_run(tmp_path, "b", 0, 0.5, changes=other)]
    kept, left = comparable([measured(run, {}) for run in runs], level=0.95)
    assert [run.run.competitor.name for run in kept] == ["a", "a"]
    assert list(left) == ["occupations, b, seed 0"]
    assert "other targets" in left["occupations, b, seed 0"]


def test_a_prompt_that_asks_something_else_than_before_is_no_answer_to_it(tmp_path: Path) -> None:
    changed = [{**PROMPTS[0], "text": "a drawing of a job00"}, *PROMPTS[1:]]
    runs = [a_run(tmp_path, "a", 0, 0.5), a_run(tmp_path, "b", 0, 0.5, changes={"prompts": changed})]
    kept, left = comparable([measured(run, {}) for run in runs], level=0.95)
    assert len(kept) == 1
    assert "1 prompts are not those of the others, such as heldout-job00-00" in left["occupations, b, seed 0"]


def test_intervals_at_another_level_are_no_answer_either(tmp_path: Path) -> None:
    run = measured(a_run(tmp_path, "a", 0, 0.5, changes={"alpha": 0.1}), {})
    kept, left = comparable([run], level=0.95)
    assert not kept
    assert "intervals at 0.9, not 0.95" in left["occupations, a, seed 0"]
    assert comparable([], level=0.95) == ([], {})


def test_a_baseline_with_a_guidance_of_its_own_is_compared_and_its_own_base_is_told() -> None:
    usual, own = Sampling(steps=20, guidance=1.0), Sampling(steps=20, guidance=2.0)
    runs = [drawn("a", seed, np.full(NUM_PROMPTS, 0.2), IDS, sampling=usual) for seed in range(2)]
    one = of([*runs, drawn("negative", None, np.full(NUM_PROMPTS, 0.5), IDS, sampling=own)])
    (note,) = one.notes
    assert "negative was measured with 20 steps and guidance 2 instead of 20 and 1" in note
    assert f"{0.9**0.5:.3f}" in note
    trained = drawn("b", 0, np.zeros(NUM_PROMPTS), IDS, sampling=own)
    _, left = comparable([*runs, trained], level=0.95)
    assert "images were made otherwise" in left["occupations, b, seed 0"]


def test_where_no_two_prompts_differ_there_is_no_interval_and_still_an_order() -> None:
    ids = [str(number) for number in range(4)]
    runs = [drawn(name, 0, np.full(4, score), ids) for name, score in (("a", 0.0), ("b", 0.5), ("c", 0.0))]
    table = the_table(runs)
    assert [entry.rms.low for entry in table.entries] == [None] * 4
    assert {entry.competitor for entry in table.entries if entry.tied} == {"a", "c"}


@pytest.mark.parametrize("num_trainings", [1, 3])
def test_prompts_that_are_equal_by_accident_still_have_the_noise_of_their_images(num_trainings: int) -> None:
    """Variance 0.02 a prompt; half of it counts at least: the t interval over three prompts that it makes, by scipy.

    Three trainings measured from the same noise have it too, and not a third of it.
    """
    ids = [str(number) for number in range(4)]
    runs = [
        drawn(name, seed, np.full(4, score), ids, noise=0.02)
        for name, score in (("a", 0.0), ("b", 0.1))
        for seed in range(num_trainings)
    ]
    table = the_table(runs)
    by_name = {entry.competitor: entry for entry in table.entries}
    half = stats.t.ppf(0.975, 3) * (0.02 / 2 / 4) ** 0.5
    assert by_name["a"].distance_sq.high == pytest.approx(half)
    assert by_name["b"].behind.high == pytest.approx(0.1 + half * 2**0.5)
    assert by_name["b"].tied
    assert not by_name[BASE].tied


def test_the_noise_of_a_runs_images_is_at_least_that_of_drawing_them_and_at_most_twice(tmp_path: Path) -> None:
    """16 images of a fair coin: the variance of the unbiased squared distance, from 40,000 draws by numpy."""
    noise = measured(a_run(tmp_path, "near", 0, 0.5), {}).scores["heldout", "presentation"].adapted_noise
    women = np.random.default_rng(0).binomial(16, 0.5, 40_000) / 16
    distances = 2 * (women - 0.5) ** 2 - 2 * women * (1 - women) / 15
    assert distances.var() <= np.mean(list(noise.values())) <= 2 * distances.var()


def test_of_nothing_there_is_no_table() -> None:
    assert of([]).tables == ()
    assert of([]).main_table is None


def test_the_concepts_that_are_furthest_from_the_target_are_named_with_their_distance_over_trainings() -> None:
    """By hand: squares of 0.16 and 0.36 over two trainings have a mean of 0.26; what is below zero is no distance."""
    ids = ["librarian", "pilot", "nurse", "cook"]
    one = drawn("curated", 0, np.array([0.16, 0.01, -0.02, 0.0]), ids)
    two = drawn("curated", 1, np.array([0.36, 0.03, -0.02, 0.0]), ids)
    (table,) = standing("occupations", [one, two], bars={}, level=0.95).tables
    curated = next(entry for entry in table.entries if entry.competitor == "curated")
    assert [name for name, _ in curated.furthest] == ["librarian", "pilot"]
    assert [distance for _, distance in curated.furthest] == pytest.approx([0.26**0.5, 0.02**0.5])
    base = next(entry for entry in table.entries if entry.competitor == "base")
    assert len(base.furthest) == 3
