"""How many images a claim needs, and the smallest change that a design would find. J prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from evenhand.stats.intervals import mean_error

Floats = NDArray[np.float64]
BETWEEN_SD = 0.11  # of shifts between prompts beyond seed noise: Stable Diffusion 1.5, counts of Friedrich et al. 2023


def discordance(p0: float, p1: float, *, phi: float = 0.0) -> float | None:
    """Share of pairs that change value when shares go from ``p0`` to ``p1``; None where ``phi`` is impossible."""
    joint = p0 * p1 + phi * math.sqrt(p0 * (1 - p0) * p1 * (1 - p1))
    cells = (joint, p0 - joint, p1 - joint, 1 - p0 - p1 + joint)
    if min(cells) < -1e-12:
        return None
    return max(0.0, cells[1]) + max(0.0, cells[2])


def pairs_needed(p0: float, p1: float, *, phi: float = 0.0, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Same-seed pairs of one prompt to find a change from ``p0`` to ``p1`` (Connor 1987); None if ``phi`` cannot be."""
    changed = discordance(p0, p1, phi=phi)
    if changed is None or p0 == p1:
        return None
    d = abs(p1 - p0)
    z_alpha, z_power = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    root = z_alpha * math.sqrt(changed) + z_power * math.sqrt(max(0.0, changed - d * d))
    return math.ceil(root**2 / d**2 - 1e-9)


def images_needed(p0: float, p1: float, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Independent images in each arm to find the change from ``p0`` to ``p1``. Fleiss 1981, equation 3.14."""
    if p0 == p1:
        return None
    middle = (p0 + p1) / 2
    z_alpha, z_power = float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))
    root = z_alpha * math.sqrt(2 * middle * (1 - middle)) + z_power * math.sqrt(p0 * (1 - p0) + p1 * (1 - p1))
    return math.ceil(root**2 / (p1 - p0) ** 2 - 1e-9)


def pair_sd(p0: float, p1: float | None = None, *, phi: float = 0.0) -> float:
    """Standard deviation of one pair's difference; without ``p1`` the shares are taken to stay."""
    p1 = p0 if p1 is None else p1
    variance_0, variance_1 = p0 * (1 - p0), p1 * (1 - p1)
    return math.sqrt(max(0.0, variance_0 + variance_1 - 2 * phi * math.sqrt(variance_0 * variance_1)))


def suite_sd(
    base_shares_J: Floats, num_seeds: int, *, phi: float = 0.0, between_sd: float = BETWEEN_SD
) -> float | None:
    """Standard deviation of one prompt's shift in a suite: seed noise by the base's shares, and what prompts differ by.

    Give the base arm's shares; where none are known, ``np.array([0.5])`` is the worst case. None without a share.
    """
    if not len(base_shares_J) or num_seeds < 1:
        return None
    noise = np.mean([pair_sd(float(share), phi=phi) ** 2 for share in base_shares_J]) / num_seeds
    return math.sqrt(between_sd**2 + float(noise))


def suite_mde(num_prompts: int, prompt_sd: float, *, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The mean shift that a t test over prompts finds with chance ``power``; None with fewer than two prompts.

    Solves the power of the t test by the noncentral t distribution (Cohen 1988, section 2.2).
    """
    if num_prompts < 2:
        return None
    return _mde(prompt_sd / math.sqrt(num_prompts), num_prompts - 1, alpha, power)


def mde_after(
    differences_J: Floats, clusters: Sequence[str], *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The mean shift that this very spread between prompts would have let be found; None below two prompts.

    Says what a result without a change can rule out; it does not depend on the mean that was seen. Zero where prompts
    do not differ at all.
    """
    if len(differences_J) < 2:
        return None
    error = mean_error(np.asarray(differences_J, dtype=np.float64), clusters)
    return _mde(error.spread, error.degrees, alpha, power)


def t_test_power(shift: float, spread: float, degrees: float, *, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test with standard error ``spread`` finds a true mean ``shift``."""
    critical = float(stats.t.ppf(1 - alpha / 2, degrees))
    centre = abs(shift) / spread
    other_side = float(stats.nct.cdf(-critical, degrees, centre))
    # Far out SciPy gives NaN here and there (degrees 1, centre 12.73); the tail is below 1e-15 wherever it does.
    return float(stats.nct.sf(critical, degrees, centre)) + (0.0 if math.isnan(other_side) else other_side)


def _mde(spread: float, degrees: float, alpha: float, power: float) -> float:
    return spread * _standard_errors(degrees, alpha, power) if spread > 0 else 0.0


@lru_cache(maxsize=1024)
def _standard_errors(degrees: float, alpha: float, power: float) -> float:
    """The shift found with chance ``power``, in standard errors."""
    # In units of the standard error: at zero the power is alpha, at the sum of quantiles below it is above `power`.
    highest = 2 * float(stats.t.ppf(1 - alpha / 2, degrees) + stats.t.ppf(max(power, 0.5), degrees)) + 2
    root = optimize.brentq(lambda units: t_test_power(units, 1.0, degrees, alpha=alpha) - power, 0.0, highest)
    return float(root)
