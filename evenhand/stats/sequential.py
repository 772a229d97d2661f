"""Stopping early without peeking: a betting e-process, and the confidence sequence that goes with it.

Sources: Waudby-Smith and Ramdas 2024 (betting on bounded means, their section 4); Ville 1939 (the bound that holds at
all times at once). After an early stop print this interval; the t interval over prompts is not valid then.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval

Floats = NDArray[np.float64]
STAKES = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])  # shares of the largest bet that cannot go broke
HALF_GRID = 400  # candidate means are 1 / 400 apart
MEANS_M = np.arange(-HALF_GRID, HALF_GRID + 1) / HALF_GRID
# Stakes that cannot go broke against a candidate mean: a difference lies in [-1 - mean, 1 - mean] of it.
STAKES_LM = np.concatenate(
    [STAKES[:, None] / np.maximum(1 + MEANS_M, 0.05), -STAKES[:, None] / np.maximum(1 - MEANS_M, 0.05)]
)
CHANGED, NARROW, EXHAUSTED = "changed", "narrow", "exhausted"


@lru_cache(maxsize=64)
def _log_factors(difference: float) -> Floats:
    """Log of what each bet against each candidate mean is multiplied by."""
    result: Floats = np.log1p(STAKES_LM * (difference - MEANS_M))
    return result


class Betting:
    """Wealth of bets against every candidate mean of differences in [-1, 1].

    A batch is one seed over *all* prompts, its pairs independent; a pair that was not read counts as 0. Bets are fixed
    before a batch and multiply over its pairs: ``prod(1 + stake (d - mean))``. Prompts may have different means: by the
    inequality of the arithmetic and the geometric mean the expected factor of a batch is at most one when the mean over
    prompts is the candidate. So looking after any batch is allowed, within a batch it is not.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        self.alpha = alpha
        self.num_batches = 0
        self._sum, self._count = 0.0, 0
        self._log_wealth_LM = np.zeros_like(STAKES_LM)
        self._log_mean_M = np.zeros(len(MEANS_M))
        self._alive_M = np.ones(len(MEANS_M), dtype=np.bool_)
        self._highest = 1.0

    def update(self, differences_J: Floats) -> None:
        """Plays one batch: the differences adapted minus base of one seed, for all prompts."""
        batch_J = np.asarray(differences_J, dtype=np.float64)
        if not len(batch_J):
            return
        if not np.all(np.abs(batch_J) <= 1):  # also refuses NaN
            raise ValueError(f"differences must lie in [-1, 1], got {batch_J[~(np.abs(batch_J) <= 1)][0]}")
        values, counts = np.unique(batch_J, return_counts=True)
        for value, count in zip(values, counts, strict=True):
            self._log_wealth_LM += count * _log_factors(float(value))
        largest_M = self._log_wealth_LM.max(axis=0)
        self._log_mean_M = largest_M + np.log(np.exp(self._log_wealth_LM - largest_M).mean(axis=0))
        self._sum += float(batch_J.sum())
        self._count += len(batch_J)
        self.num_batches += 1
        self._alive_M &= self._log_mean_M < -np.log(self.alpha)
        self._highest = max(self._highest, self.e_value)

    @property
    def e_value(self) -> float:
        """Evidence against a mean of zero: under it, to ever reach ``1 / alpha`` has chance at most alpha."""
        return float(np.exp(min(700.0, float(self._log_mean_M[HALF_GRID]))))

    @property
    def p(self) -> float:
        """p value that is valid whenever one stops: one over the largest e-value so far."""
        return min(1.0, 1 / self._highest)

    def confidence_sequence(self) -> Interval:
        """Interval of the mean difference on these prompts that covers at all batches at once."""
        if not self._count:
            return Interval(None, None, None, "not estimable: no batch")
        value = self._sum / self._count
        how = f"betting confidence sequence after {self.num_batches} batches"
        alive = np.flatnonzero(self._alive_M)
        if not len(alive):
            return Interval(value, None, None, f"{how}: no candidate is left, batches contradict each other")
        step = 1 / HALF_GRID  # the ends lie between candidates
        low, high = MEANS_M[alive[0]] - step, MEANS_M[alive[-1]] + step
        return Interval(value, max(-1.0, float(low)), min(1.0, float(high)), how)

    def stop(self, *, width: float | None = None, max_batches: int | None = None) -> str | None:
        """Why to stop now: ``changed``, ``narrow`` (interval at most ``width``), ``exhausted``; None to go on."""
        if self._highest >= 1 / self.alpha:
            return CHANGED
        interval = self.confidence_sequence()
        if interval.low is None or interval.high is None:
            return EXHAUSTED if max_batches is not None and self.num_batches >= max_batches else None
        if width is not None and interval.high - interval.low <= width:
            return NARROW
        if max_batches is not None and self.num_batches >= max_batches:
            return EXHAUSTED
        return None
