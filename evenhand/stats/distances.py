"""How far shares are from even, or from a target. Letters: J prompts, N images, K values.

A plug-in distance of a perfectly even generator is above zero at any finite number of images: its noise floor, which
:func:`noise_floor` gives for the very number of images. ``distance_sq`` has none: its expectation is the true distance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
FLOOR_DRAWS = 20_000
FLOOR_SEED = 20_261_122


def gap(shares_XK: Floats) -> Floats:
    """Largest minus smallest share; for two values ``|f1 - f2|``."""
    result: Floats = shares_XK.max(axis=-1) - shares_XK.min(axis=-1)
    return result


def total_variation(shares_XK: Floats, target_XK: Floats) -> Floats:
    """Half the sum of absolute differences to the target."""
    result: Floats = 0.5 * np.abs(shares_XK - target_XK).sum(axis=-1)
    return result


def entropy(shares_XK: Floats) -> Floats:
    """Entropy over its maximum: 1 is even, 0 is one value only. Plug-in, so too low at few images: see its floor."""
    logs = np.log(np.where(shares_XK > 0, shares_XK, 1.0))
    result: Floats = -(shares_XK * logs).sum(axis=-1) / np.log(shares_XK.shape[-1])
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


@lru_cache(maxsize=4096)
def noise_floor(name: str, n: int, truth: tuple[float, ...], target: tuple[float, ...]) -> float:
    """Expected plug-in ``gap``, ``tv`` or ``entropy`` at ``n`` images of a generator whose shares are ``truth``.

    Two values: exact, over the binomial. More: the mean of seeded multinomial draws.
    """
    target_K = np.array(target)
    distances: dict[str, Callable[[Floats], Floats]] = {
        "gap": gap,
        "tv": lambda shares_XK: total_variation(shares_XK, target_K),
        "entropy": entropy,
    }
    if len(truth) == 2:
        counts = np.arange(n + 1)
        shares_XK = np.stack([counts, n - counts], axis=1) / n
        weights = stats.binom.pmf(counts, n, truth[0])
        return float(weights @ distances[name](shares_XK))
    rng = np.random.default_rng(FLOOR_SEED)
    return float(distances[name](rng.multinomial(n, truth, size=FLOOR_DRAWS) / n).mean())
