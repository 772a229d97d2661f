"""Did the distribution of values change at all? Labels of the two arms swapped at random within pairs.

A bootstrap interval of a distance lies above zero in every comparison of a generator with itself; this test does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.distances import DISTANCES, hellinger, js, total_variation

Floats = NDArray[np.float64]
BETWEEN_ARMS = {"tv": total_variation, "hellinger": hellinger, "js": js}
TO_TARGET = "_to_target"
FEW_KINDS = 8  # a binomial draw takes about as long as this many single signs


class Permutation(NamedTuple):
    """The statistic of the data, and the share of swapped data that reach it."""

    statistic: str
    value: float | None
    p: float | None
    swaps: int
    how: str


def label_swap(
    base: Sequence[Floats],
    adapted: Sequence[Floats],
    *,
    statistic: str = "tv",
    target: Sequence[float] | None = None,
    paired: bool = True,
    swaps: int = 9_999,
    seed: int = 0,
) -> Permutation:
    """p value of no change on these prompts; one array (images, values) for each prompt and arm.

    ``statistic``: ``tv``, ``hellinger`` or ``js`` between the arms; or the absolute change of a name of ``DISTANCES``
    that needs no target (``gap``, ``entropy``); or ``tv_to_target`` and the like, the absolute change of the distance
    to ``target``. Each is a mean over prompts. Paired rows are swapped pair by pair, unpaired images are dealt anew
    within their prompt. ``p = (1 + reached) / (1 + swaps)`` (Phipson and Smyth 2010), so it is never zero.
    """
    both = [
        (np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64))
        for old, new in zip(base, adapted, strict=True)
        if len(old) and len(new)
    ]
    if not both:
        return Permutation(statistic, None, None, 0, "not estimable: no prompt was read in both arms")
    rng = np.random.default_rng(seed)
    total = np.zeros(swaps + 1)
    for old, new in both:
        shares = _swapped_pairs(old, new, swaps, rng) if paired else _dealt_images(old, new, swaps, rng)
        total += _score(statistic, *shares, target)
    if statistic not in BETWEEN_ARMS:
        total = np.abs(total)
    total /= len(both)
    reached = int(np.sum(total[1:] >= total[0] - 1e-9))
    unit = "swaps within same-seed pairs" if paired else "dealings of unpaired images within prompts"
    how = f"permutation: {swaps} {unit}, {len(both)} prompts"
    return Permutation(statistic, float(total[0]), (1 + reached) / (1 + swaps), swaps, how)


def _swapped_pairs(old_NK: Floats, new_NK: Floats, swaps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Shares (1 + swaps, K) of both arms; the first row is the data. Pairs that agree need no swap."""
    if len(old_NK) != len(new_NK):
        raise ValueError(f"paired arms need as many images, got {len(old_NK)} and {len(new_NK)}; use paired=False")
    count = len(old_NK)
    changed = np.any(old_NK != new_NK, axis=1)
    half_NK = (new_NK - old_NK)[changed] / 2
    # Pairs with the same change, up to its sign, are swapped together: how many of them keep their sign is binomial.
    first = half_NK[np.arange(len(half_NK)), (half_NK != 0).argmax(axis=1)] if len(half_NK) else np.zeros(0)
    kinds_CK, kind_N = np.unique(half_NK * np.sign(first)[:, None], axis=0, return_inverse=True)
    if len(kinds_CK) * FEW_KINDS < len(half_NK):
        sizes_C = np.bincount(kind_N.reshape(-1), minlength=len(kinds_CK))
        signs = 2.0 * rng.binomial(sizes_C, 0.5, size=(swaps + 1, len(kinds_CK))) - sizes_C
        signs[0] = np.bincount(kind_N.reshape(-1), weights=np.sign(first), minlength=len(kinds_CK))
    else:
        kinds_CK = half_NK
        signs = rng.integers(0, 2, size=(swaps + 1, len(half_NK)), dtype=np.int8).astype(np.float64) * 2 - 1
        signs[0] = 1.0
    shift = signs @ kinds_CK / count
    middle = (old_NK + new_NK).mean(axis=0) / 2
    return np.clip(middle - shift, 0.0, 1.0), np.clip(middle + shift, 0.0, 1.0)


def _dealt_images(old_NK: Floats, new_NK: Floats, swaps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Like :func:`_swapped_pairs` for arms without pairs: which images are the adapted ones is drawn anew."""
    images_NK = np.concatenate([old_NK, new_NK])
    first = rng.random((swaps + 1, len(images_NK))).argsort(axis=1) < len(old_NK)
    first[0] = np.arange(len(images_NK)) < len(old_NK)
    olds = first.astype(np.float64) @ images_NK
    news = images_NK.sum(axis=0) - olds
    return np.clip(olds / len(old_NK), 0.0, 1.0), np.clip(news / len(new_NK), 0.0, 1.0)


def _score(statistic: str, old_SK: Floats, new_SK: Floats, target: Sequence[float] | None) -> Floats:
    if statistic in BETWEEN_ARMS:
        return BETWEEN_ARMS[statistic](old_SK, new_SK)
    name = statistic.removesuffix(TO_TARGET)
    if name not in DISTANCES:
        raise ValueError(f"no statistic {statistic}; there are {[*BETWEEN_ARMS, *DISTANCES]}, also with {TO_TARGET}")
    if statistic.endswith(TO_TARGET):
        if target is None:
            raise ValueError(f"{statistic} needs a target")
        wanted = np.asarray(target, dtype=np.float64)
    else:
        wanted = np.full(old_SK.shape[-1], 1 / old_SK.shape[-1])
    return DISTANCES[name](new_SK, wanted) - DISTANCES[name](old_SK, wanted)
