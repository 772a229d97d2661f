"""The bias figures of published papers, under the papers' names, so that numbers can be laid side by side.

Each is a plug-in distance, on which a perfectly even generator scores above zero: see ``noise_floor`` in distances.py.
For two values all are the same number in other units: :func:`conversions`. Shapes: X any leading axes, K *declared*
values, the last axis. A value that no image shows still counts in K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shen_bias(shares_XK: Floats) -> Floats:
    """Mean absolute difference over the pairs of values. Shen et al., ICLR 2024, the metric of section 5."""
    count = shares_XK.shape[-1]
    if count < 2:
        return np.zeros(shares_XK.shape[:-1])
    # sum over pairs of |a - b| = sum of (2 rank - K + 1) * sorted value
    weights_K = 2 * np.arange(count) - (count - 1)
    result: Floats = np.sort(shares_XK, axis=-1) @ weights_K.astype(np.float64) * (2 / (count * (count - 1)))
    return result


def deviation_ratio(shares_XK: Floats) -> Floats:
    """Largest deviation from even over the largest that is possible. Li et al., CVPR 2024 (InterpretDiffusion)."""
    count = shares_XK.shape[-1]
    if count < 2:
        return np.zeros(shares_XK.shape[:-1])
    result: Floats = np.abs(shares_XK - 1 / count).max(axis=-1) / (1 - 1 / count)
    return result


def fairness_discrepancy(shares_XK: Floats, target_K: Floats) -> Floats:
    """Euclidean distance to the target ("FD"). Choi et al., ICML 2020, with read values in place of soft scores.

    Some papers print its square under the same name.
    """
    result: Floats = np.sqrt(((shares_XK - target_K) ** 2).sum(axis=-1))
    return result


def uce_delta(shares_XK: Floats) -> Floats:
    """``|p - 0.5| / 0.5``. Orgad et al., ICCV 2023 (TIME), and Gandikota et al., WACV 2024 (UCE). Two values only."""
    return _two(shares_XK, "uce_delta") / 0.5


def heim_imbalance(shares_XK: Floats) -> Floats:
    """``|p - 0.5|``. Lee et al., NeurIPS 2023 (HEIM), gender imbalance. Two values only."""
    return _two(shares_XK, "heim_imbalance")


def parity_gap(shares_XK: Floats) -> Floats:
    """Mean absolute deviation from even, over the values. The parity gap of EquiSteer, and the MAD of DALL-Eval."""
    result: Floats = np.abs(shares_XK - 1 / shares_XK.shape[-1]).mean(axis=-1)
    return result


def openbias(shares_XK: Floats) -> Floats:
    """One minus entropy over its maximum. D'Inca et al., CVPR 2024 (OpenBias), here over all declared values."""
    count = shares_XK.shape[-1]
    if count < 2:
        return np.zeros(shares_XK.shape[:-1])
    logs = np.log(np.where(shares_XK > 0, shares_XK, 1.0))
    result: Floats = 1 + (shares_XK * logs).sum(axis=-1) / np.log(count)
    return result


def fairimagen(shares_XK: Floats) -> Floats:
    """Fairness score, 1 is even: one minus the total variation from even over the largest that is possible.

    FairImagen, NeurIPS 2025. K is the declared number of values: with the observed number, a generator that shows
    two of 36 evenly would score 1.
    """
    count = shares_XK.shape[-1]
    if count < 2:
        return np.ones(shares_XK.shape[:-1])
    result: Floats = 1 - 0.5 * np.abs(shares_XK - 1 / count).sum(axis=-1) / (1 - 1 / count)
    return result


def conversions(gap: float) -> dict[str, float]:
    """What a gap ``|f1 - f2|`` of two values is in every other paper's unit, where the target is even."""
    return {
        "gap": gap,
        "shen_bias": gap,
        "deviation_ratio": gap,
        "uce_delta": gap,
        "heim_imbalance": gap / 2,
        "parity_gap": gap / 2,
        "fairness_discrepancy": gap / 2**0.5,
        "fairimagen": 1 - gap,
        "tv": gap / 2,
    }


def _two(shares_XK: Floats, name: str) -> Floats:
    if shares_XK.shape[-1] != 2:
        raise ValueError(f"{name} is defined for two values, got {shares_XK.shape[-1]}; use deviation_ratio")
    result: Floats = np.abs(shares_XK[..., 0] - 0.5)
    return result
