"""The dose curve: what becomes of the headline when the adapter is scaled, drawn with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate
from evenhand.report.content import Content
from evenhand.report.figures import cell, number, title

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 200, 34, 12, 12, 30
MAX_VALUES = 6
CURVES = ("gap", "rms", "tv", "shown", "image_text")
# Their attribute is not the headline's: what is expected, or the scorer.
OF_ANY_ATTRIBUTE = ("shown", "image_text")
LOWER_BOUND, UPPER_BOUND = 0.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePoint:
    """One scale: its place in the drawing, its interval's, and the same in words."""

    scale: str
    arm: str
    x: float
    y: float
    low_y: float
    high_y: float
    cell: str
    n_images: int
    measured_fully: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePanel:
    """One quantity over the scales; ``line`` are the points of its polyline."""

    title: str
    points: tuple[DosePoint, ...]
    line: str
    target_y: float | None
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def dose_panels(plan: Plan, content: Content) -> list[DosePanel]:
    """A panel for the headline's shares and distances; none where the plan asks for no dose."""
    if not plan.dose_arms:
        return []
    scales = {content.arms[0]: 0.0, content.arms[1]: _own_scale(plan), **plan.dose_arms}
    arms = sorted(scales, key=lambda arm: scales[arm])
    values = plan.attributes[content.attribute]
    shown = values[:1] if len(values) == 2 else values[:MAX_VALUES]
    panels = []
    for name in (*(f"share:{value}" for value in shown), *CURVES):
        estimates = [_estimate(content, name, arm) for arm in arms]
        found = [each for each in estimates if each is not None and each.value is not None]
        if any(each.arm in plan.dose_arms for each in found):
            value = name.removeprefix("share:")
            target = plan.target(content.attribute, "*") if name != value else None
            wanted = None if target is None else target[values.index(value)]
            panels.append(_panel(plan, content, name, found, scales, wanted))
    return panels


def _own_scale(plan: Plan) -> float:
    return plan.generation.adapter_scale if plan.generation is not None else 1.0


def _estimate(content: Content, name: str, arm: str) -> Estimate | None:
    found = content.find(name, suite=content.suite, attribute=content.attribute, arm=arm)
    if found is not None or name not in OF_ANY_ATTRIBUTE:
        return found
    rows = [e for e in content.estimates if (e.name, e.suite, e.arm, e.concept) == (name, content.suite, arm, None)]
    return rows[0] if rows else None


def _panel(
    plan: Plan,
    content: Content,
    name: str,
    estimates: Sequence[Estimate],
    scales: dict[str, float],
    target: float | None,
) -> DosePanel:
    largest = max(scales.values())
    top = max([UPPER_BOUND, *(each.high for each in estimates if each.high is not None)])

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
                measured_fully=each.arm in content.arms,
            )
        )
    return DosePanel(
        title=title(name),
        points=tuple(points),
        line=" ".join(f"{point.x},{point.y}" for point in points),
        target_y=None if target is None else y(target),
        x_ticks=tuple((point.x, point.scale) for point in points),
        y_ticks=tuple((y(tick * top), number(tick * top)) for tick in (0.0, 0.5, 1.0)),
    )
