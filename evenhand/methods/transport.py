"""Which value each picture of a prompt should show, so that together they show the target and change the least.

For N pictures with probabilities p_i over K cells, N cells u are drawn from the target, and optimal transport gives
each picture one of them, at the least sum of |p_i - onehot(u)|. A picture's pseudo-target is the cell that it gets most
often over many draws, and its confidence how often: what is drawn for a few pictures is noise, and a picture whose cell
hangs on the draw should not be pulled (Shen et al., ICLR 2024). With as many cells as pictures the problem is one of
assignment, solved exactly by `scipy.optimize.linear_sum_assignment`. Letters: N pictures, K cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoTargets:
    """For each picture the cell that it should show, and in which share of the draws it got that one."""

    cell_N: NDArray[np.int64]
    confidence_N: Floats


def pseudo_targets(probs_NK: Floats, shares_K: Floats, *, num_draws: int, seed: int) -> PseudoTargets:
    """Optimal transport to ``num_draws`` draws of the target, a function of ``seed``. No pictures give no targets."""
    from scipy.optimize import linear_sum_assignment

    num_pictures, num_cells = probs_NK.shape
    if not num_pictures:
        return PseudoTargets(cell_N=np.zeros(0, dtype=np.int64), confidence_N=np.zeros(0))
    random = np.random.default_rng(seed)
    cost_NK = np.linalg.norm(probs_NK[:, None, :] - np.eye(num_cells)[None], axis=2)
    got_NK = np.zeros((num_pictures, num_cells))
    for _ in range(num_draws):
        drawn_N = np.repeat(np.arange(num_cells), random.multinomial(num_pictures, shares_K))
        pictures, places = linear_sum_assignment(cost_NK[:, drawn_N])
        got_NK[pictures, drawn_N[places]] += 1  # counts, so that all of the draws are a confidence of 1 exactly
    return PseudoTargets(cell_N=got_NK.argmax(axis=1), confidence_N=got_NK.max(axis=1) / num_draws)
