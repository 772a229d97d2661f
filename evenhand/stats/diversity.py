"""How different the pictures of a cell are: a prompt, or better a value within a prompt.

Within values, because an adapter that shows one woman eight times is not diverse. N images, D features of length one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, mean_interval

Floats = NDArray[np.float64]


def vendi(features_ND: Floats) -> float:
    """Vendi score: the effective number of different pictures, 1 to N. Friedman and Dieng 2023, definition 3.1.

    The exponential of the entropy of the eigenvalues of the cosine kernel over N. It grows with N: compare at equal N.
    """
    if not len(features_ND):
        return float("nan")
    features_ND = np.asarray(features_ND, dtype=np.float64)
    return float(_vendi_of_kernels((features_ND @ features_ND.T)[None])[0])


def mean_distance(features_ND: Floats) -> float:
    """Mean of one minus cosine over pairs of pictures; NaN for fewer than two. Its expectation does not depend on N."""
    if len(features_ND) < 2:
        return float("nan")
    features_ND = np.asarray(features_ND, dtype=np.float64)
    return float(_distance_of_kernels((features_ND @ features_ND.T)[None])[0])


def _vendi_of_kernels(kernels_SNN: Floats) -> Floats:
    values = np.clip(np.linalg.eigvalsh(kernels_SNN / kernels_SNN.shape[-1]), 0.0, None)
    logs = np.log(np.where(values > 0, values, 1.0))
    result: Floats = np.exp(-(values * logs).sum(axis=-1))
    return result


def _distance_of_kernels(kernels_SNN: Floats) -> Floats:
    count = kernels_SNN.shape[-1]
    trace = np.trace(kernels_SNN, axis1=-2, axis2=-1)
    result: Floats = 1 - (kernels_SNN.sum(axis=(-2, -1)) - trace) / (count * (count - 1))
    return result


STATISTICS: dict[str, Callable[[Floats], Floats]] = {"vendi": _vendi_of_kernels, "distance": _distance_of_kernels}
LEAST = 1e-12  # of a mean distance, so that identical pictures have a logarithm


class DiversityChange(NamedTuple):
    """Geometric means over cells at equal N; ``interval`` is of ``adapted / base - 1``."""

    base: float | None
    adapted: float | None
    interval: Interval
    p: float | None
    how: str


def compare_diversity(
    base: Sequence[Floats],
    adapted: Sequence[Floats],
    clusters: Sequence[str],
    *,
    statistic: str = "vendi",
    level: float,
    seed: int = 0,
    swaps: int = 999,
) -> DiversityChange:
    """Relative change of ``vendi`` or ``distance``; one array of features for each cell and arm.

    In each cell the larger arm is thinned at random to the size of the smaller; cells below two images are left out.
    The interval is a t interval over cells (by ``clusters``: prompts or concepts) of the log ratio; ``p`` deals the
    images of each cell to the arms anew.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"no statistic {statistic}; there are {sorted(STATISTICS)}")
    rng = np.random.default_rng(seed)
    logs, names, dealt = [], [], np.zeros(swaps)
    for old, new, name in zip(base, adapted, clusters, strict=True):
        count = min(len(old), len(new))
        if count < 2:
            continue
        images = np.concatenate([_thinned(old, count, rng), _thinned(new, count, rng)]).astype(np.float64)
        kernel = images @ images.T
        score = _arms(kernel, np.arange(2 * count)[None], statistic)
        logs.append(score[0])
        names.append(name)
        if swaps:
            orders = rng.random((swaps, 2 * count)).argsort(axis=1)
            dealings = _arms(kernel, orders, statistic)
            dealt += dealings[:, 1] - dealings[:, 0]
    how = f"{statistic} at equal numbers of images in {len(logs)} cells"
    if not logs:
        nothing = Interval(None, None, None, f"not estimable: {how}, none has two images in both arms")
        return DiversityChange(None, None, nothing, None, nothing.how)
    logs_C2 = np.array(logs)
    change_C = logs_C2[:, 1] - logs_C2[:, 0]
    interval = mean_interval(change_C, names, level=level)
    ratios = [None if value is None else float(np.expm1(value)) for value in interval[:3]]
    p = (1 + int(np.sum(np.abs(dealt) >= abs(change_C.sum()) - 1e-9))) / (1 + swaps) if swaps else None
    old_mean, new_mean = (float(value) for value in np.exp(logs_C2.mean(axis=0)))
    interval = Interval(ratios[0], ratios[1], ratios[2], f"{how}, {interval.how.replace('prompt', 'cell')}")
    return DiversityChange(old_mean, new_mean, interval, p, how)


def _thinned(features_ND: Floats, count: int, rng: np.random.Generator) -> Floats:
    if len(features_ND) == count:
        return features_ND
    return features_ND[np.sort(rng.choice(len(features_ND), size=count, replace=False))]


def _arms(kernel: Floats, orders_SN: NDArray[np.intp], statistic: str) -> Floats:
    """Log of the statistic (S, 2) of the first and the second half of each order of the images."""
    half = orders_SN.shape[1] // 2
    scores = []
    for rows in (orders_SN[:, :half], orders_SN[:, half:]):
        kernels = kernel[rows[:, :, None], rows[:, None, :]]
        scores.append(np.log(np.maximum(STATISTICS[statistic](kernels), LEAST)))
    return np.stack(scores, axis=1)
