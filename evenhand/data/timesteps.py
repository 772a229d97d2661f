"""How often each part of the noise schedule is drawn. A draw is given as a share of the schedule: 0 clean, 1 noise.

A batch draws its timesteps in equal parts of the probability, so what stands here is the inverse of a distribution
function: it turns evenly spread shares into the wanted ones.
"""

from __future__ import annotations

import math
from typing import Protocol

# the last share below 1: the schedule's last timestep, and not one after it
MOST = math.nextafter(1.0, 0.0)


class Timesteps(Protocol):
    """Which timesteps are drawn."""

    def share(self, even: float) -> float:
        """The share of the schedule, in [0, 1), below which ``even`` of all draws lie; it never falls as it grows."""


class Uniform:
    """Every timestep as often as any other, as bases are trained."""

    def share(self, even: float) -> float:
        """The same share."""
        return even


UNIFORM = Uniform()


class Beta:
    """Shares from the beta distribution with density ~ x^(alpha - 1) (1 - x)^(beta - 1).

    ``alpha=1, beta=1`` is uniform; a larger ``alpha`` draws noisy timesteps more often, where what an image shows is
    decided; a larger ``beta`` clean ones. No weight of a loss makes up for it: it is a weight.
    """

    def __init__(self, *, alpha: float, beta: float) -> None:
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value} (timesteps.{name})")
        self.alpha = alpha
        self.beta = beta

    def share(self, even: float) -> float:
        """The quantile of ``even``."""
        from scipy.special import betaincinv

        return min(float(betaincinv(self.alpha, self.beta, even)), MOST)
