"""The drawings of a report as places in percent: shares by concept, and guards against their margins.

Rows are as wide as the page, so places are percentages of it; letters stand beside the drawing, not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenhand.analysis.suite_shares import SHIFT
from evenhand.analysis.wording import percent
from evenhand.evaluation.plan import Plan
from evenhand.records import Estimate, Guard
from evenhand.report.content import Content, PromptTest
from evenhand.report.figures import FINE, interval, number, p_value, signed

MAX_ROWS, MAX_VALUES, MAX_PLOTS = 60, 8, 16
MARGINS_SHOWN = 3  # a guard's drawing ends at three margins on both sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One arm's share in a row, in percent of the width."""

    arm: str
    x: float
    low_x: float
    high_x: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotRow:
    """One concept of a plot: a dot for each arm, the target, and the band of chance around it."""

    concept: str
    dots: tuple[Dot, ...]
    target_x: float | None
    band: tuple[float, float] | None
    changed: bool
    figures: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Shares of one value for the concepts of a suite; ``num_left_out`` of them are not drawn."""

    suite: str
    attribute: str
    value: str
    rows: tuple[PlotRow, ...]
    num_concepts: int
    num_left_out: int
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardBar:
    """A guard with its change and interval between minus and plus three margins, in percent of the width."""

    guard: Guard
    x: float | None
    low_x: float | None
    high_x: float | None
    change: str
    ends: str
    margin: str
    text: str


def _x(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 2)


def share_plots(plan: Plan, content: Content) -> list[Plot]:
    """Plots of every attribute with a target, for each suite that leaves it open; the headline's come first.

    Of an attribute with two values the second's share is what is left, so that only the first is drawn.
    """
    wanted = [content.attribute, *(target.attribute for target in plan.targets if target.attribute in plan.attributes)]
    suites = [content.suite, *(suite for suite in plan.suites if suite != content.suite)]
    found: dict[tuple[str, str, str], dict[str, dict[str, Estimate]]] = {}
    for estimate in content.estimates:
        if estimate.concept is None or estimate.value is None or not estimate.name.startswith("share:"):
            continue
        if estimate.arm in (*content.arms, SHIFT):
            key = (estimate.attribute, estimate.suite, estimate.name.removeprefix("share:"))
            found.setdefault(key, {}).setdefault(estimate.concept, {})[estimate.arm] = estimate
    tests = {(test.attribute, test.suite, test.concept): test for test in content.prompt_tests}
    plots = []
    for attribute in dict.fromkeys(wanted):
        values = plan.attributes[attribute]
        for suite in suites:
            for value in values[:1] if len(values) == 2 else values[:MAX_VALUES]:
                concepts = found.get((attribute, suite, value))
                if concepts:
                    plots.append(_plot(plan, content, (attribute, suite, value), concepts, tests))
    return plots[:MAX_PLOTS]


def _plot(
    plan: Plan,
    content: Content,
    scope: tuple[str, str, str],
    concepts: Mapping[str, Mapping[str, Estimate]],
    tests: Mapping[tuple[str, str, str], PromptTest],
) -> Plot:
    attribute, suite, value = scope
    base, _ = content.arms
    place = plan.attributes[attribute].index(value)

    def base_share(concept: str) -> tuple[float, str]:
        estimate = concepts[concept].get(base)
        return (0.0 if estimate is None or estimate.value is None else estimate.value, concept)

    ordered = sorted(concepts, key=base_share)
    drawn = evenly(ordered, MAX_ROWS)
    rows = []
    for concept in drawn:
        target = plan.target(attribute, concept)
        share = None if target is None else target[place]
        test = tests.get((attribute, suite, concept))
        rows.append(_row(plan, content, concept, concepts[concept], share, test))
    return Plot(
        suite=suite,
        attribute=attribute,
        value=value,
        rows=tuple(rows),
        num_concepts=len(ordered),
        num_left_out=len(ordered) - len(drawn),
        marked=any((attribute, suite, concept) in tests for concept in ordered),
    )


def evenly(items: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _row(
    plan: Plan,
    content: Content,
    concept: str,
    by_arm: Mapping[str, Estimate],
    target: float | None,
    test: PromptTest | None,
) -> PlotRow:
    shown = [by_arm[arm] for arm in content.arms if arm in by_arm]
    texts = [
        f"{each.arm} {number(each.value)} ({interval(each.low, each.high)}), {each.n_images} images, "
        f"{each.n_unread} unread"
        for each in shown
    ]
    if SHIFT in by_arm:
        shift = by_arm[SHIFT]
        texts.append(f"change {signed(shift.value)} ({interval(shift.low, shift.high, change=True)})")
    if test is not None:
        texts.append(f"p with Holm's correction {p_value(test.p_holm)}")
    count = min((each.n_images - each.n_unread for each in shown), default=0)
    band = None if target is None or count < 1 else chance_band(target, count, plan.level)
    return PlotRow(
        concept=concept,
        dots=tuple(_dot(each) for each in shown),
        target_x=None if target is None else _x(target),
        band=band,
        changed=test is not None and test.changed,
        figures=tuple((each.arm, number(each.value)) for each in shown),
        text=f"{concept}: {'; '.join(texts)}",
    )


def chance_band(target: float, num_images: int, level: float) -> tuple[float, float]:
    """Where a generator on target lands with the probability ``level``: the binomial's quantiles, in percent."""
    from scipy.stats import binom

    low, high = binom.interval(level, num_images, target)
    return _x(low / num_images), _x(high / num_images)


def _dot(estimate: Estimate) -> Dot:
    assert estimate.value is not None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return Dot(arm=estimate.arm, x=_x(estimate.value), low_x=_x(low), high_x=_x(high))


def guard_bars(content: Content) -> list[GuardBar]:
    """Every guard against its margin, the failed ones first."""
    return [_bar(guard) for guard in sorted(content.guards, key=lambda guard: guard.passed)]


def _bar(guard: Guard) -> GuardBar:
    def place(value: float | None) -> float | None:
        if value is None or guard.margin <= 0:
            return None
        return round(min(100.0, max(0.0, 50 + 50 * value / (MARGINS_SHOWN * guard.margin))), 2)

    change, ends = signed(guard.value, FINE), interval(guard.low, guard.high, change=True, digits=FINE)
    margin = number(guard.margin, FINE)
    state = "held" if guard.passed else "failed"
    return GuardBar(
        guard=guard,
        x=place(guard.value),
        low_x=place(guard.low),
        high_x=place(guard.high),
        change=change,
        ends=ends,
        margin=margin,
        text=f"{guard.name}, {guard.suite}: {change} ({ends}), margin {margin}, {state}",
    )


def level_text(level: float) -> str:
    """The level of intervals as text: ``95 %``."""
    return f"{percent(level)} %"
