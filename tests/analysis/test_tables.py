"""Readings as arrays, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenhand.analysis.suite_shares import open_suites, suite_shares, target_of
from evenhand.analysis.tables import ReadingTable
from evenhand.evaluation.plan import parse_plan
from evenhand.records import Reading
from tests.folders import plan_row, prompt_row, reading_row


def table_of(rows: list[dict[str, Any]], **changes: Any) -> ReadingTable:
    prompts = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse")]
    return ReadingTable(parse_plan(plan_row(prompts, **changes), "test"), [Reading(**row) for row in rows])


MECHANIC, NURSE = "heldout-mechanic-00", "heldout-nurse-00"


def test_images_are_counted_in_the_order_of_prompt_and_seed() -> None:
    rows = [
        reading_row(NURSE, 5, "base", "woman"),
        reading_row(MECHANIC, 9, "base", "man", subject=1),
        reading_row(MECHANIC, 9, "base", "woman", subject=0),
        reading_row(MECHANIC, 2, "base", None),
        reading_row(NURSE, 5, "adapted", "man"),
    ]
    table = table_of(rows)
    images = table.images("presentation", "base")
    assert images.prompt_N.tolist() == [0, 0, 1]
    assert images.seed_N.tolist() == [2, 9, 5]
    assert images.counts_NK.tolist() == [[0, 0], [1, 1], [1, 0]]
    assert images.subjects_N.tolist() == [1, 2, 1]
    assert table.subjects("presentation", "base", MECHANIC) == {2: {0: None}, 9: {0: "woman", 1: "man"}}
    assert table.seeds("base", MECHANIC) == {2, 9}
    assert not table.paired
    mechanic = table.prompt_shares("presentation", table.plan.prompts[0])
    assert mechanic.base.images_NK.tolist() == [[0.5, 0.5]]
    assert (mechanic.base.n_unread, mechanic.adapted.n_images) == (1, 0)


def test_the_cells_of_a_joint_are_declared_and_counted() -> None:
    rows = [
        reading_row(place, seed, arm, value, attribute=name)
        for place in (MECHANIC, NURSE)
        for arm in ("base", "adapted")
        for seed in range(2)
        for name, value in (("presentation", "man"), ("skin", "dark" if seed else "light"))
    ]
    table = table_of(
        rows,
        attributes=[
            {"name": "presentation", "values": ["woman", "man"]},
            {"name": "skin", "values": ["light", "medium", "dark"]},
        ],
        targets=[
            {"attribute": "presentation", "concept": "*", "shares": [0.5, 0.5]},
            {"attribute": "skin", "concept": "*", "shares": [0.2, 0.3, 0.5]},
        ],
        joints=[["presentation", "skin"]],
    )
    name = "presentation × skin"
    assert table.values[name] == tuple(f"{a} × {b}" for a in ("woman", "man") for b in ("light", "medium", "dark"))
    counts = table.images(name, "base").counts_NK
    assert counts.sum(axis=0).tolist() == [0, 0, 0, 2, 0, 2]
    # Without a target of its own: the product of its parts'.
    assert target_of(table.plan, name, "nurse") == pytest.approx((0.1, 0.15, 0.25, 0.1, 0.15, 0.25))
    view = suite_shares(table, "heldout", name)
    assert view.base.shares_JK.tolist() == [[0, 0, 0, 0.5, 0, 0.5]] * 2
    assert [view.attribute for view in open_suites(table)] == ["presentation", "skin", name]


def test_how_alike_pairs_stay_is_measured_within_prompts() -> None:
    """Mechanic always man, nurse always woman, but for one pair each that changes places: no correlation is left."""
    rng = np.random.default_rng(0)
    rows = []
    for place, share in ((MECHANIC, 0.1), (NURSE, 0.9)):
        for arm in ("base", "adapted"):
            for seed, number in enumerate(rng.random(400)):
                rows.append(reading_row(place, seed, arm, "woman" if number < share else "man"))
    phi = suite_shares(table_of(rows), "heldout", "presentation").phi
    assert phi is not None
    assert abs(phi) < 0.12
    same = [{**row, "arm": arm} for row in rows if row["arm"] == "base" for arm in ("base", "adapted")]
    assert suite_shares(table_of(same), "heldout", "presentation").phi == pytest.approx(1.0)


@pytest.mark.parametrize("field", ["reader", "prompt_id", "arm", "attribute"])
def test_names_that_are_not_texts_are_refused(field: str) -> None:
    rows = [{**reading_row(MECHANIC, 0, "base", "man"), field: None}]
    with pytest.raises(ValueError, match="must be texts"):
        table_of(rows)
