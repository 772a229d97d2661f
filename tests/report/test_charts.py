"""Drawings put numbers where they belong: dots, intervals, targets, the band of chance, margins and scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evenhand.evaluation.plan import Plan, parse_plan
from evenhand.report.charts import MAX_ROWS, chance_band, evenly, guard_bars, share_plots
from evenhand.report.content import Content
from evenhand.report.dose_curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, dose_panels
from tests.folders import plan_row, prompt_row


def row(name: str, arm: str, value: float | None, *, concept: str | None = None, **changes: Any) -> dict[str, Any]:
    near = {"low": None, "high": None} if value is None else {"low": value - 0.1, "high": value + 0.1}
    scope = {"suite": "heldout", "concept": concept, "attribute": "presentation", "arm": arm}
    counts = {"n_prompts": 1, "n_images": 20, "n_unread": 0, "floor": None, "how": "by hand", "level": 0.95}
    return {"name": name, **scope, "value": value, **near, **counts, **changes}


def content_of(estimates: Sequence[dict[str, Any]], **changes: Any) -> Content:
    """The content of a results.json as another program may write it: only the keys of the file format."""
    return Content(
        {
            "plan_sha256": "ab" * 32,
            "answer": "An answer.",
            "reader": "oracle",
            "paired": True,
            "arms": ["base", "adapted"],
            "primary": {"attribute": "presentation", "suite": "heldout"},
            "estimates": estimates,
            "guards": [],
            "verdicts": [],
            **changes,
        }
    )


def plan_of(concepts: Sequence[str], **changes: Any) -> Plan:
    return parse_plan(plan_row([prompt_row("heldout", name) for name in concepts], **changes), "plan")


def test_dots_and_intervals_stand_at_their_share() -> None:
    rows = [row("share:woman", "base", 0.2, concept="a"), row("share:woman", "adapted", 0.45, concept="a")]
    (plot,) = share_plots(plan_of(["a"]), content_of(rows))
    (drawn,) = plot.rows
    assert [(dot.arm, dot.low_x, dot.x, dot.high_x) for dot in drawn.dots] == [
        ("base", 10.0, 20.0, 30.0),
        ("adapted", 35.0, 45.0, 55.0),
    ]
    assert drawn.target_x == 50.0
    assert "base 0.20 (0.10 to 0.30), 20 images, 0 unread" in drawn.text


def test_concepts_stand_in_the_order_of_the_base() -> None:
    shares = {"b": 0.9, "a": 0.5, "c": 0.1}
    rows = [row("share:woman", "base", share, concept=name) for name, share in shares.items()]
    (plot,) = share_plots(plan_of(list(shares)), content_of(rows))
    assert [drawn.concept for drawn in plot.rows] == ["c", "a", "b"]


def test_a_concept_whose_change_survives_holm_is_marked_and_another_is_not() -> None:
    rows = [row("share:woman", "base", 0.1, concept=name) for name in ("a", "b")]
    scope = {"suite": "heldout", "attribute": "presentation"}
    tests = [
        {**scope, "concept": "a", "p": 0.0001, "p_holm": 0.0002, "changed": True},
        {**scope, "concept": "b", "p": 0.3, "p_holm": 0.6, "changed": False, "later": "field"},
    ]
    (plot,) = share_plots(plan_of(["a", "b"]), content_of(rows, prompt_tests=tests))
    assert {drawn.concept: drawn.changed for drawn in plot.rows} == {"a": True, "b": False}
    assert "p with Holm's correction below 0.001" in plot.rows[0].text
    assert "p with Holm's correction 0.600" in plot.rows[1].text


def test_the_band_holds_a_generator_on_target_as_often_as_it_says() -> None:
    """Against 20,000 draws of 16 images; the binomial is discrete, so it may hold a little more than the level."""
    low, high = chance_band(0.5, 16, 0.95)
    shares = 100 * np.random.default_rng(0).binomial(16, 0.5, 20_000) / 16
    inside = np.mean((shares >= low - 1e-9) & (shares <= high + 1e-9))
    assert 0.945 < inside < 0.985
    assert chance_band(0.5, 1600, 0.95)[0] > low  # more images, a narrower band
    assert np.allclose([low, high], [25.0, 75.0])  # exactly 4 and 12 of 16: P(X <= 3) = 0.0106, P(X <= 4) = 0.0384


def test_there_is_no_band_without_a_target_or_without_an_image() -> None:
    rows = [row("share:woman", "base", 0.2, concept="a"), row("share:woman", "base", 0.2, concept="b", n_unread=20)]
    (plot,) = share_plots(plan_of(["a", "b"]), content_of(rows))
    assert [drawn.band is None for drawn in plot.rows] == [False, True]
    (plot,) = share_plots(plan_of(["a", "b"], targets=[]), content_of(rows))
    assert [(drawn.band, drawn.target_x) for drawn in plot.rows] == [(None, None)] * 2


def test_of_many_concepts_evenly_spaced_ones_are_drawn_and_the_rest_is_counted() -> None:
    names = [f"c{index:03d}" for index in range(500)]
    rows = [row("share:woman", "base", index / 500, concept=name) for index, name in enumerate(names)]
    (plot,) = share_plots(plan_of(names), content_of(rows))
    assert (len(plot.rows), plot.num_left_out) == (MAX_ROWS, 500 - MAX_ROWS)
    assert (plot.rows[0].concept, plot.rows[-1].concept) == ("c000", "c499")
    steps = np.diff([names.index(drawn.concept) for drawn in plot.rows])
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("most", [2, 3, 7])
def test_evenly_keeps_the_ends_and_never_repeats(most: int) -> None:
    items = [str(index) for index in range(8)]
    kept = evenly(items, most)
    assert (len(set(kept)), kept[0], kept[-1]) == (most, "0", "7")
    assert evenly(items, 8) == items


def test_each_of_three_values_has_its_own_plot_and_target() -> None:
    changes: dict[str, Any] = {
        "attributes": [{"name": "presentation", "values": ["x", "y", "z"]}],
        "targets": [{"attribute": "presentation", "concept": "*", "shares": [0.2, 0.3, 0.5], "source": "census"}],
    }
    rows = [row(f"share:{value}", "base", 0.3, concept="a") for value in "xyz"]
    plots = share_plots(plan_of(["a"], **changes), content_of(rows))
    assert [(plot.value, plot.rows[0].target_x) for plot in plots] == [("x", 20.0), ("y", 30.0), ("z", 50.0)]


def test_a_guard_at_its_margin_stands_at_the_bands_edge_and_failed_ones_come_first() -> None:
    guard = {"suite": "explicit", "low": -0.05, "high": 0.05, "margin": 0.05}
    guards = [
        {"name": "held", **guard, "value": 0.0, "passed": True},
        {"name": "failed", **guard, "value": -0.5, "passed": False},
        {"name": "unknown", **guard, "value": None, "low": None, "high": None, "passed": False},
    ]
    bars = guard_bars(content_of([], guards=guards))
    assert [bar.guard.name for bar in bars] == ["failed", "unknown", "held"]
    # The template draws the margin from 33.33 to 66.67: a third of three margins on both sides of the middle.
    assert (bars[2].low_x, bars[2].x, bars[2].high_x) == (33.33, 50.0, 66.67)
    assert (bars[0].x, bars[1].x) == (0.0, None)
    assert bars[1].change == "not estimable"


def dose_plan() -> Plan:
    return plan_of(["a"], dose={"scales": [0.25, 0.5, 1.5], "num_seeds": 4})


def test_the_dose_curve_has_every_scale_in_order_at_its_place() -> None:
    values = {"adapted@0": 0.9, "adapted@1.5": 0.1, "adapted@0.25": 0.8, "adapted@0.5": 0.6, "adapted@1": 0.3}
    headline = [row("gap", "base", 0.95), row("gap", "adapted", 0.35)]  # of more images: no points of the curve
    rows = [row("gap", arm, value) for arm, value in values.items()]
    panels = dose_panels(dose_plan(), content_of([*headline, *rows]))
    (panel,) = panels
    assert [(point.scale, point.arm) for point in panel.points] == [
        ("0", "adapted@0"),
        ("0.25", "adapted@0.25"),
        ("0.5", "adapted@0.5"),
        ("1", "adapted@1"),
        ("1.5", "adapted@1.5"),
    ]
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for point in panel.points:
        value = values[point.arm]
        assert point.x == pytest.approx(LEFT + wide * float(point.scale) / 1.5, abs=0.06)
        assert point.y == pytest.approx(TOP + high * (1 - value), abs=0.06)
        # Above one, and below zero, an interval is cut at the drawing's edge or the drawing grows with it.
        assert point.high_y < point.y < point.low_y
    assert panel.line.split() == [f"{point.x},{point.y}" for point in panel.points]
    assert panel.floor == ""


def test_what_lies_below_the_floor_is_shaded() -> None:
    """The outline by hand: along the axis of zero, and at the height of the floor of each scale."""
    rows = [row("gap", arm, 0.4, floor=0.25) for arm in ("adapted@0", "adapted@0.5", "adapted@1")]
    (panel,) = dose_panels(dose_plan(), content_of(rows))
    outline = [tuple(float(place) for place in pair.split(",")) for pair in panel.floor.split()]
    xs = [point.x for point in panel.points]
    floor_y, zero_y = TOP + (HEIGHT - TOP - BOTTOM) * 0.75, HEIGHT - BOTTOM
    assert outline == [(xs[0], zero_y), *((x, floor_y) for x in xs), (xs[-1], zero_y)]


def test_a_share_of_the_dose_curve_has_its_target_line() -> None:
    rows = [row("share:woman", arm, 0.4) for arm in ("adapted@0", "adapted@0.5", "adapted@1")]
    (panel,) = dose_panels(dose_plan(), content_of(rows))
    assert panel.target_y == pytest.approx(TOP + (HEIGHT - TOP - BOTTOM) / 2)


def test_a_score_is_drawn_up_to_its_own_largest() -> None:
    """Cosines of a scorer lie near 0.3: the largest end of an interval is 0.42, so the drawing ends at 0.5."""
    rows = [row("image_text", arm, 0.32, attribute="clip") for arm in ("adapted@0", "adapted@0.5", "adapted@1")]
    (panel,) = dose_panels(dose_plan(), content_of(rows))
    assert [label for _, label in panel.y_ticks] == ["0.00", "0.25", "0.50"]
    assert panel.points[0].y == pytest.approx(TOP + (HEIGHT - TOP - BOTTOM) * (1 - 0.32 / 0.5), abs=0.06)


def test_there_is_no_dose_curve_without_other_scales() -> None:
    rows = [row("gap", arm, 0.4) for arm in ("base", "adapted", "adapted@0", "adapted@1")]
    assert dose_panels(plan_of(["a"]), content_of(rows)) == []
    assert dose_panels(dose_plan(), content_of(rows)) == []  # planned, not yet read


def test_every_drawing_of_a_report_has_a_label_that_says_the_same(tmp_path: Path) -> None:
    from evenhand.report.render import write_report
    from tests.report.full_folder import full_folder
    from tests.report.page import page_of

    folder = full_folder(tmp_path / "run")
    write_report(folder)
    page = page_of(folder)
    source = (folder / "report.html").read_text()
    assert source.count('<svg class="track" height="26" role="img" aria-label="') > 10
    assert page.tags.count("svg") == source.count("aria-label=") - 1 + source.count('aria-hidden="true"')
