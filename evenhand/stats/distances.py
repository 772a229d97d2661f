"""How far shares are from even, or from a target. Letters: J prompts, N images, K values, X any leading axes.

A plug-in distance of a perfectly even generator is above zero at any finite number of images: its noise floor, which
:func:`noise_floor` gives for the very number of images. ``distance_sq`` has none: its expectation is the true distance.
K is always the declared number of values (of a joint: the product), never the number that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evenhand.stats import published

Floats = NDArray[np.float64]
FLOOR_CELLS = 80_000  # simulated shares for one floor: 20,000 prompts of four values, 2,222 of 36
FLOOR_LEAST_DRAWS = 2_000
FLOOR_SEED = 20_261_122


def gap(shares_XK: Floats) -> Floats:
    """Largest minus smallest share; for two values ``|f1 - f2|``."""
    result: Floats = shares_XK.max(axis=-1) - shares_XK.min(axis=-1)
    return result


def total_variation(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Half the sum of absolute differences to the target."""
    result: Floats = 0.5 * np.abs(shares_XK - target_XK).sum(axis=-1)
    return result


def hellinger(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Hellinger distance to the target, 0 to 1 (Hellinger 1909)."""
    squares = (np.sqrt(shares_XK) - np.sqrt(target_XK)) ** 2
    result: Floats = np.sqrt(0.5 * squares.sum(axis=-1))
    return result


def kl(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Kullback-Leibler divergence from the target in nats; infinite where a value without target is shown."""
    ratio = np.divide(shares_XK, target_XK, out=np.full(np.shape(shares_XK), np.inf), where=target_XK > 0)
    logs = np.log(np.where(shares_XK > 0, ratio, 1.0))
    terms = np.multiply(shares_XK, logs, out=np.zeros(np.shape(shares_XK)), where=shares_XK > 0)
    result: Floats = terms.sum(axis=-1)
    return result


def js(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Jensen-Shannon divergence to the target in bits, 0 to 1 (Lin 1991, equation 4.1); its root is a metric."""
    middle = (shares_XK + target_XK) / 2
    nats = (kl(shares_XK, middle) + kl(np.broadcast_to(target_XK, np.shape(shares_XK)), middle)) / 2
    result: Floats = np.clip(nats / np.log(2), 0.0, 1.0)
    return result


def four_fifths(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Smallest over largest ``share / target``: 1 is on target. NaN where no value that has a target is shown.

    The rule of thumb of US hiring law (29 CFR 1607.4 D) flags ratios below 0.8; unstable for small targets.
    """
    wanted = np.broadcast_to(target_XK > 0, np.shape(shares_XK))
    ratio = np.divide(shares_XK, target_XK, out=np.zeros(np.shape(shares_XK)), where=wanted)
    least = np.where(wanted, ratio, np.inf).min(axis=-1)
    most = ratio.max(axis=-1)
    result: Floats = np.divide(least, most, out=np.full(np.shape(most), np.nan), where=most > 0)
    return result


def wasserstein(shares_XK: Floats, target_XK: Floats, *, steps: Sequence[float] | None = None) -> Floats:
    """Wasserstein-1 distance for *ordered* values: sum of |F - T| times the step to the next value (default 1)."""
    differences = np.abs(np.cumsum(shares_XK - target_XK, axis=-1))[..., :-1]
    widths = np.ones(differences.shape[-1]) if steps is None else np.asarray(steps, dtype=np.float64)
    if len(widths) != differences.shape[-1]:
        raise ValueError(f"steps must have one entry fewer than values ({differences.shape[-1]}), got {len(widths)}")
    result: Floats = differences @ widths
    return result


def shortfall(shares_XK: Floats, target_XK: Floats) -> Floats:
    """By how much the most under-shown value falls short of its target."""
    result: Floats = np.maximum(target_XK - shares_XK, 0.0).max(axis=-1)
    return result


def entropy(shares_XK: Floats) -> Floats:
    """Entropy over its maximum: 1 is even, 0 is one value only. Plug-in, so too low at few images: see its floor."""
    result: Floats = 1 - published.openbias(shares_XK)
    return result


def entropy_miller_madow(shares_XK: Floats, n: int) -> Floats:
    """Entropy over its maximum with the first-order correction ``(m - 1) / (2 n)``, m values shown (Miller 1955)."""
    count = shares_XK.shape[-1]
    if count < 2:
        return np.ones(shares_XK.shape[:-1])
    shown = (shares_XK > 0).sum(axis=-1)
    result: Floats = entropy(shares_XK) + (shown - 1) / (2 * n * np.log(count))
    return result


def distance_sq(images_NK: Floats, target_K: Floats) -> float:
    """Unbiased squared Euclidean distance of one prompt's shares to the target; may be below zero; NaN for one image.

    The plug-in square minus the unbiased variance of the mean image. For single subjects that variance is
    ``p (1 - p) / (n - 1)`` for each value.
    """
    n = len(images_NK)
    if n < 2:
        return float("nan")
    shares_K = images_NK.mean(axis=0)
    noise = images_NK.var(axis=0, ddof=1).sum() / n
    return float(((shares_K - target_K) ** 2).sum() - noise)


def empty_cells(shares_K: Floats) -> list[int]:
    """Which declared values no image shows."""
    return [int(index) for index in np.flatnonzero(np.asarray(shares_K) == 0)]


def expected_empty(n: int, target: Sequence[float]) -> float:
    """How many values a generator exactly on target leaves unshown in ``n`` images: the control of ``empty_cells``."""
    return float(((1 - np.asarray(target, dtype=np.float64)) ** n).sum())


def _even(distance: Callable[[Floats], Floats]) -> Callable[[Floats, Floats], Floats]:
    return lambda shares_XK, target_K: distance(shares_XK)


# Every plug-in distance by the name of its estimate; those that need no target ignore it.
DISTANCES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "gap": _even(gap),
    "tv": total_variation,
    "entropy": _even(entropy),
    "hellinger": hellinger,
    "js": js,
    "kl": kl,
    "four_fifths": four_fifths,
    "wasserstein": wasserstein,
    "shortfall": shortfall,
    "shen_bias": _even(published.shen_bias),
    "deviation_ratio": _even(published.deviation_ratio),
    "fairness_discrepancy": published.fairness_discrepancy,
    "uce_delta": _even(published.uce_delta),
    "heim_imbalance": _even(published.heim_imbalance),
    "parity_gap": _even(published.parity_gap),
    "openbias": _even(published.openbias),
    "fairimagen": _even(published.fairimagen),
}


@lru_cache(maxsize=32)
def _simulated_shares(n: int, truth: tuple[float, ...]) -> Floats:
    """Shares (draws, K) of prompts of ``n`` images; for two values each possible outcome once."""
    if len(truth) == 2:
        counts = np.arange(n + 1)
        return np.stack([counts, n - counts], axis=1) / n
    rng = np.random.default_rng(FLOOR_SEED)
    shares = np.asarray(truth, dtype=np.float64)
    draws = max(FLOOR_LEAST_DRAWS, FLOOR_CELLS // len(truth))
    result: Floats = rng.multinomial(n, shares / shares.sum(), size=draws) / n
    return result


@lru_cache(maxsize=128)
def _simulated(name: str, n: int, truth: tuple[float, ...], target: tuple[float, ...]) -> Floats:
    """The distance of every simulated prompt; what it is not defined for is left out of the mean by its NaN."""
    shares = _simulated_shares(n, truth)
    if name == "entropy_miller_madow":
        return entropy_miller_madow(shares, n)
    if name not in DISTANCES:
        raise ValueError(f"no floor for {name}; there is one for {[*sorted(DISTANCES), 'entropy_miller_madow']}")
    return DISTANCES[name](shares, np.array(target))


@lru_cache(maxsize=4096)
def noise_floor(name: str, n: int, truth: tuple[float, ...], target: tuple[float, ...]) -> float:
    """Expected plug-in distance (a name of ``DISTANCES``) at ``n`` images of a generator whose shares are ``truth``.

    Two values: exact, over the binomial. More: the mean of seeded multinomial draws, 2,000 or more. NaN without images.
    """
    if n < 1:
        return float("nan")
    scores = _simulated(name, n, truth, target)
    weights = stats.binom.pmf(np.arange(n + 1), n, truth[0]) if len(truth) == 2 else np.ones(len(scores))
    defined = ~np.isnan(scores)
    return float(weights[defined] @ scores[defined] / weights[defined].sum())


def worst_floor(name: str, counts: Sequence[int], truth: tuple[float, ...], target: tuple[float, ...]) -> float:
    """Expected *largest* distance of J prompts whose shares are all ``truth``, with these numbers of images.

    The largest of forty fair prompts looks very unfair; so a worst prompt is never shown without this number.
    """
    counts = [n for n in counts if n > 0]
    if not counts:
        return float("nan")
    rng = np.random.default_rng(FLOOR_SEED)
    worst = np.full(FLOOR_LEAST_DRAWS, -np.inf)
    for n in counts:
        scores = _simulated(name, n, truth, target)
        weights = stats.binom.pmf(np.arange(n + 1), n, truth[0]) if len(truth) == 2 else np.ones(len(scores))
        drawn = rng.choice(scores, size=FLOOR_LEAST_DRAWS, p=weights / weights.sum())
        worst = np.fmax(worst, drawn)
    return float(worst.mean())
