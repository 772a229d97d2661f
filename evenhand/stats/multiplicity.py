"""Many tests at once: adjusted p values, in the order given. A claim "these prompts changed" needs Holm's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def holm(p: Sequence[float] | Floats) -> Floats:
    """Holm 1979: marking what is at most alpha makes one false mark or more with chance at most alpha."""
    p_J = np.asarray(p, dtype=np.float64)
    order = np.argsort(p_J, kind="stable")
    factors = np.arange(len(p_J), 0, -1)
    adjusted = np.empty(len(p_J))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_J[order] * factors))
    return adjusted


def benjamini_hochberg(p: Sequence[float] | Floats) -> Floats:
    """Benjamini and Hochberg 1995: among what is marked at alpha, the expected false share is at most alpha.

    For lists to explore, not for claims.
    """
    p_J = np.asarray(p, dtype=np.float64)
    order = np.argsort(p_J, kind="stable")
    scaled = p_J[order] * len(p_J) / np.arange(1, len(p_J) + 1)
    adjusted = np.empty(len(p_J))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
