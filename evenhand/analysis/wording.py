"""How numbers stand in sentences."""

from __future__ import annotations

from evenhand.records import Estimate, Guard


def number(value: float | None, digits: int = 2) -> str:
    """A number as every report prints it, with so many digits behind the point."""
    return "not estimable" if value is None else f"{_rounded(value, digits):.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """A change, with its sign; none where it is rounded to zero."""
    rounded = _rounded(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _rounded(value: float, digits: int) -> float:
    """A value as it is printed, zero without a sign."""
    return float(f"{value:.{digits}f}") + 0.0


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
