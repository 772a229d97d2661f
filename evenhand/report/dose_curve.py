"""The dose curve: what becomes of the headline when the adapter is scaled, drawn with its intervals and floors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.analysis.dose import dose_scales
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate
from evenhand.report.content import Content
from evenhand.report.figures import cell, number, title

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 200, 34, 12, 12, 30
MAX_VALUES = 6
CURVES = ("gap", "rms", "tv")
SCORE = "image_text"
# Shares and distances are drawn between zero and one, scores up to their own largest one.
LOWER_BOUND, UPPER_BOUND, SCORE_STEPS = 0.0, 1.0, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePoint:
    """One scale: its place in the drawing, its interval's, and the same in words; ``arm`` is that of its estimate."""

    scale: str
    arm: str
    x: float
    y: float
    low_y: float
    high_y: float
    cell: str
    n_images: int
    n_unread: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePanel:
    """One quantity over the scales; ``line`` are the points of its polyline.

    ``floor`` is the outline of what lies below the noise floor, empty for a quantity without one.
    """

    title: str
    points: tuple[DosePoint, ...]
    line: str
    floor: str
    target_y: float | None
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def dose_panels(plan: Plan, content: Content) -> list[DosePanel]:
    """A panel for the headline's shares, its distances and its score; none where no other scale was read."""
    arms = dose_scales(plan)
    values = plan.attributes[content.attribute]
    shown = values[:1] if len(values) == 2 else values[:MAX_VALUES]
    panels = []
    for name in (*(f"share:{value}" for value in shown), *CURVES, SCORE):
        estimates = [_estimate(content, name, arm) for arm in arms]
        found = [each for each in estimates if each is not None and each.value is not None]
        if any(each.arm in plan.dose_arms for each in found):
            value = name.removeprefix("share:")
            target = plan.target(content.attribute, "*") if name != value else None
            wanted = None if target is None else target[values.index(value)]
            panels.append(_panel(plan, name, found, wanted))
    return panels


def _estimate(content: Content, name: str, arm: str) -> Estimate | None:
    """The headline's estimate at a scale; the attribute of a score is its scorer."""
    if name != SCORE:
        return content.find(name, suite=content.suite, attribute=content.attribute, arm=arm)
    rows = [e for e in content.estimates if (e.name, e.suite, e.arm, e.concept) == (name, content.suite, arm, None)]
    return rows[0] if rows else None


def _panel(plan: Plan, name: str, estimates: Sequence[Estimate], target: float | None) -> DosePanel:
    scales = {arm: point.scale for arm, point in dose_scales(plan).items()}
    largest = max(scales.values())
    highest = max(max(e.value or 0.0, e.high or 0.0) for e in estimates)
    top = math.ceil(SCORE_STEPS * highest) / SCORE_STEPS if name == SCORE else max(UPPER_BOUND, highest)

    def x(scale: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * scale / largest, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(LOWER_BOUND, value) / top), 1)

    points = []
    for each in estimates:
        assert each.value is not None
        low = each.value if each.low is None else each.low
        high = each.value if each.high is None else each.high
        points.append(
            DosePoint(
                scale=f"{scales[each.arm]:g}",
                arm=each.arm,
                x=x(scales[each.arm]),
                y=y(each.value),
                low_y=y(low),
                high_y=y(high),
                cell=cell(each),
                n_images=each.n_images,
                n_unread=each.n_unread,
            )
        )
    floors = [(x(scales[each.arm]), y(each.floor)) for each in estimates if each.floor is not None]
    outline = [(floors[0][0], y(0.0)), *floors, (floors[-1][0], y(0.0))] if floors else []
    return DosePanel(
        title=title(name),
        points=tuple(points),
        line=" ".join(f"{point.x},{point.y}" for point in points),
        floor=" ".join(f"{across},{down}" for across, down in outline),
        target_y=None if target is None else y(target),
        x_ticks=tuple((point.x, point.scale) for point in points),
        y_ticks=tuple((y(tick * top), number(tick * top)) for tick in (0.0, 0.5, 1.0)),
    )
