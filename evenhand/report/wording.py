"""How numbers stand in sentences."""

from __future__ import annotations

from evenhand.records import Estimate, Guard


def number(value: float | None) -> str:
    """A number as every report prints it."""
    return "not estimable" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def signed(value: float) -> str:
    """A change, with its sign."""
    return f"{value:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00").replace("-", "−")


def percent(value: float) -> str:
    """A part of one as a percentage."""
    return f"{100 * value:.0f}".replace("-0", "0").replace("-", "−")


def interval_text(estimate: Estimate | Guard, level: float) -> str:
    """The interval of a change."""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{percent(level)} % interval {signed(estimate.low)} to {signed(estimate.high)}"


def listed(parts: list[str]) -> str:
    """Several phrases as one."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
