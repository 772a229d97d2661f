"""Same-seed pairs, one by one: did they change, towards the target or away, and how alike do the arms stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value that as many pairs gain as lose; 1 when none changed. Fagerland et al. 2013, equation 3."""
    changed = gained + lost
    if changed == 0:
        return 1.0
    fewer = min(gained, lost)
    p = 2 * float(stats.binom.cdf(fewer, changed, 0.5)) - float(stats.binom.pmf(fewer, changed, 0.5))
    return min(1.0, p)


def phi(base_N: Floats, adapted_N: Floats) -> float | None:
    """Correlation of a score over pairs (for yes or no: Pearson's phi); None where an arm is constant."""
    return pooled_phi([base_N], [adapted_N])


def pooled_phi(base: Sequence[Floats], adapted: Sequence[Floats]) -> float | None:
    """Correlation over pairs within prompts: what pairing by seed gains, beyond that both arms had the same prompt."""
    covariance = variance_0 = variance_1 = 0.0
    for old, new in zip(base, adapted, strict=True):
        if len(old):
            covariance += float((old - old.mean()) @ (new - new.mean()))
            variance_0 += float(((old - old.mean()) ** 2).sum())
            variance_1 += float(((new - new.mean()) ** 2).sum())
    if variance_0 <= 0 or variance_1 <= 0:
        return None
    return float(np.clip(covariance / (variance_0 * variance_1) ** 0.5, -1.0, 1.0))


class ChangeShares(NamedTuple):
    """One number, 0 or 1, for each pair."""

    changed_N: Floats
    toward_N: Floats
    away_N: Floats


def change_shares(base_NK: Floats, adapted_NK: Floats, target_K: Floats) -> ChangeShares:
    """Which pairs of one prompt changed value, and whether towards the target or away from it.

    What is towards is judged by the base images of the prompt's *other* pairs. Judged by all of them, two runs of the
    same generator seem to move towards the target: the image that happens to add to the excess is the one that changes.
    """
    count = len(base_NK)
    changed_N = np.any(base_NK != adapted_NK, axis=1).astype(np.float64)
    if count < 2:
        return ChangeShares(changed_N, np.zeros(count), np.zeros(count))
    others_NK = (base_NK.sum(axis=0) - base_NK) / (count - 1)
    slope_N = ((others_NK - target_K) * (adapted_NK - base_NK)).sum(axis=1)
    tolerance = 1e-12
    return ChangeShares(changed_N, (slope_N < -tolerance).astype(np.float64), (slope_N > tolerance).astype(np.float64))
