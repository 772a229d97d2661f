"""Numbers as reports print them; expected texts written by hand."""

from __future__ import annotations

import pytest

from evenhand.records import Estimate
from evenhand.report.figures import cell, quantity_text


def estimate(name: str, arm: str, value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(
        name=name,
        suite="heldout",
        concept=None,
        attribute="presentation",
        arm=arm,
        value=value,
        low=low,
        high=high,
        level=0.95,
        n_prompts=1,
        n_images=1,
        n_unread=0,
        floor=None,
        how="by hand",
    )


@pytest.mark.parametrize(
    ("name", "arm", "values", "text"),
    [
        # What is large keeps two digits, whatever its interval.
        ("gap", "base", (0.71, 0.6, 0.8), "0.71 (0.60 to 0.80)"),
        ("gap", "shift", (-0.304, -0.5, 0.001), "−0.30 (−0.50 to 0.00)"),
        ("share:woman", "base", (0.0, 0.0, 0.19), "0.00 (0.00 to 0.19)"),
        # Squares, cosines and rare things have a third.
        ("distance_sq", "adapted", (0.004, -0.0112, 0.0191), "0.004 (−0.011 to 0.019)"),
        ("image_text", "shift", (0.0006, -0.0021, 0.0033), "+0.001 (−0.002 to +0.003)"),
        ("near_duplicates", "base", (0.0103, 0.0, 0.0226), "0.010 (0.000 to 0.023)"),
        # Two digits that say something: of what hangs on a scorer, and of whatever would be all zeros.
        ("cmmd", "shift", (0.0118197, None, None), "0.012 (no interval)"),
        ("kid", "shift", (2.8187e-05, None, None), "0.000028 (no interval)"),
        ("unheard_of", "base", (0.00031, 0.00012, 0.0005), "0.00031 (0.00012 to 0.00050)"),
        ("kid", "shift", (0.0, None, None), "0.00 (no interval)"),
        ("kid", "shift", (None, None, None), "not estimable"),
    ],
)
def test_every_quantity_has_the_digits_of_its_scale(
    name: str, arm: str, values: tuple[float | None, float | None, float | None], text: str
) -> None:
    assert cell(estimate(name, arm, *values)) == text


def test_a_statistic_without_an_interval_has_the_same_digits() -> None:
    assert quantity_text("kid", 2.8187e-05) == "0.000028"
    assert quantity_text("tv", 0.25) == "0.25"
