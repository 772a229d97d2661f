"""Several readers in one folder: who gives the headline, how far they agree, and what follows for a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenhand.analysis.readers_agreement import values_by_image
from evenhand.analysis.results import Results, analyse, results_json
from evenhand.analysis.tables import ReadingTable
from evenhand.evaluation.plan import parse_plan
from evenhand.records import Reading
from tests.folders import VALUES, drawn_readings, plan_row, prompt_row, reading_row


def prompts_of(count: int) -> list[dict[str, Any]]:
    return [prompt_row("heldout", f"c{index}") for index in range(count)]


def results_of(plan: dict[str, Any], rows: list[dict[str, Any]]) -> Results:
    return analyse(parse_plan(plan, "test"), [Reading(**row) for row in rows], [], plan_digest="0" * 64)


def reduced(count: int = 12, num_seeds: int = 24) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts, and readings of a bias of 0.9 women that falls to 0.6."""
    prompts = prompts_of(count)
    shares = {"base": {row["id"]: 0.9 for row in prompts}, "adapted": {row["id"]: 0.6 for row in prompts}}
    return prompts, drawn_readings(prompts, shares, num_seeds=num_seeds, rng=np.random.default_rng(0))


def reread(rows: list[dict[str, Any]], *, wrong: float, reader: str = "second", seed: int = 1) -> list[dict[str, Any]]:
    """The same images by a reader that says the other value of a part of them."""
    rng = np.random.default_rng(seed)
    other = {VALUES[0]: VALUES[1], VALUES[1]: VALUES[0]}
    return [
        {**row, "reader": reader, "value": other[row["value"]] if rng.random() < wrong else row["value"]}
        for row in rows
    ]


def test_two_readers_that_agree_let_a_reduction_be_called_what_it_is() -> None:
    prompts, rows = reduced()
    results = results_of(plan_row(prompts), rows + reread(rows, wrong=0.03))
    verdict = results.verdict()
    assert verdict is not None
    assert verdict.verdict in ("improved", "partial", "on target")
    assert verdict.caps == ()
    assert results.readers == ("oracle", "second")
    assert "Reader second" in results.answer


@pytest.mark.parametrize(
    ("num_other", "told"), [(0, "it agrees on all images"), (1, "it agrees on at least 99 % of each arm's images")]
)
def test_what_readers_agree_on_is_not_rounded_up_to_all(num_other: int, told: str) -> None:
    """Of 288 images of an arm one is 0.35 %."""
    prompts, rows = reduced()
    other = {VALUES[0]: VALUES[1], VALUES[1]: VALUES[0]}
    again = [{**row, "reader": "second"} for row in rows]
    for row in again[:num_other]:
        row["value"] = other[row["value"]]
    assert told in results_of(plan_row(prompts), rows + again).answer


def test_one_reader_alone_is_suggestive_and_so_is_one_that_disagrees() -> None:
    prompts, rows = reduced()
    alone = results_of(plan_row(prompts), rows).verdict()
    assert alone is not None
    assert (alone.verdict, alone.caps) == ("suggestive", ("one reader only",))
    against = results_of(plan_row(prompts), rows + reread(rows, wrong=0.5)).verdict()
    assert against is not None
    assert (against.verdict, against.caps) == ("suggestive", ("reader second does not show it",))
    assert "improved" not in against.sentence


def test_agreement_by_hand() -> None:
    """Base: 3 of 4 images alike; both say woman of 2 and 3 of 4: chance agreement 0.5, kappa (0.75 - 0.5) / 0.5."""
    prompts = prompts_of(2)
    first = {0: "woman", 1: "woman", 2: "man", 3: "man"}
    second = {0: "woman", 1: "woman", 2: "woman", 3: "man"}
    rows = [
        reading_row(prompts[seed // 2]["id"], seed, arm, values[seed], reader=reader)
        for arm in ("base", "adapted")
        for reader, values in (("a", first), ("b", second))
        for seed in range(4)
    ]
    results = results_of(plan_row(prompts), rows)
    (base,) = [row for row in results.agreement if row.arm == "base"]
    assert (base.reader, base.other, base.n_images) == ("a", "b", 4)
    assert base.share == 0.75
    assert base.kappa == pytest.approx(0.5)


def test_the_primary_reader_is_the_plans_else_the_one_with_most_lines() -> None:
    prompts, rows = reduced(4, 6)
    other = reread(rows, wrong=0.0, reader="a")
    assert results_of(plan_row(prompts), rows + other).reader == "a"  # as many lines: the first by name
    assert results_of(plan_row(prompts), rows + other[:-1]).reader == "oracle"
    assert results_of(plan_row(prompts, reader="a"), rows + other[:-1]).reader == "a"
    assert results_of(plan_row(prompts, reader="nobody"), rows + other[:-1]).reader == "oracle"


def test_a_second_reader_of_one_arm_only_is_left_out_and_named() -> None:
    prompts, rows = reduced(4, 6)
    half = [row for row in reread(rows, wrong=0.0) if row["arm"] == "base"]
    results = results_of(plan_row(prompts), rows + half)
    assert results.second_readings == ()
    assert any("second" in note for note in results.notes)


def test_second_readings_stand_in_the_json_beside_their_reader() -> None:
    prompts, rows = reduced(4, 6)
    content = results_json(results_of(plan_row(prompts), rows + reread(rows, wrong=0.0)))
    rows_of = {(row["reader"], row["name"], row["arm"]): row for row in content["second_readings"]}
    first = {(row["name"], row["arm"]): row for row in content["estimates"] if row["concept"] is None}
    for name in ("share:woman", "gap", "distance_sq", "rms"):
        assert rows_of["second", name, "base"]["value"] == first[name, "base"]["value"]


def test_the_training_reader_is_named_in_the_first_paragraph_and_caps_the_verdict() -> None:
    prompts, rows = reduced()
    both = rows + reread(rows, wrong=0.02)
    circular = results_of(plan_row(prompts, training_reader="oracle", reader="oracle"), both)
    verdict = circular.verdict()
    assert verdict is not None
    assert verdict.verdict == "suggestive"
    assert circular.circular
    assert "Circular: oracle" in circular.answer
    honest = results_of(plan_row(prompts, training_reader="another", reader="oracle"), both)
    assert not honest.circular
    assert "Circular" not in honest.answer


def test_images_are_labelled_by_the_value_that_all_their_people_show() -> None:
    prompts = prompts_of(1)
    people = {0: ("woman", "woman"), 1: ("woman", "man"), 2: (None, None), 3: ("man", None)}
    rows = [
        reading_row(prompts[0]["id"], seed, arm, value, subject=subject)
        for arm in ("base", "adapted")
        for seed, values in people.items()
        for subject, value in enumerate(values)
    ]
    table = ReadingTable(parse_plan(plan_row(prompts), "test"), [Reading(**row) for row in rows])
    found = values_by_image(table, "presentation")
    labels = [found["base", prompts[0]["id"], seed] for seed in range(4)]
    assert labels == ["woman", "mixed", None, "man"]
