"""Distances of whole sets of pictures by kernels of their features: zero on average when nothing differs.

All are U-statistics. Published code of CMMD uses the biased form, which is above zero for any two sets, and the more so
the fewer images.
Letters: N base images, M adapted images, D features. Values below zero are possible and mean zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CMMD_SIGMA, CMMD_SCALE = 10.0, 1_000.0  # Jayasumana et al. 2024, section 4: features of length one
KID_DEGREE, KID_OFFSET = 3, 1.0  # Binkowski et al. 2018, section 4


def _gaussian(one_ND: Floats, other_MD: Floats) -> Floats:
    squares = (one_ND**2).sum(axis=1)[:, None] + (other_MD**2).sum(axis=1)[None, :] - 2 * one_ND @ other_MD.T
    result: Floats = CMMD_SCALE * np.exp(-np.maximum(squares, 0.0) / (2 * CMMD_SIGMA**2))
    return result


def _polynomial(one_ND: Floats, other_MD: Floats) -> Floats:
    result: Floats = (one_ND @ other_MD.T / one_ND.shape[1] + KID_OFFSET) ** KID_DEGREE
    return result


KERNELS: dict[str, Callable[[Floats, Floats], Floats]] = {"cmmd": _gaussian, "kid": _polynomial}


def cmmd(base_ND: Floats, adapted_MD: Floats, *, paired: bool = False) -> float:
    """CMMD x 1000 (Jayasumana et al., CVPR 2024): squared MMD with a Gaussian kernel, sigma 10, of CLIP features.

    ``paired``: row i of both is one seed; these like pairs are left out of the cross term. NaN below two images.
    """
    return _mmd("cmmd", base_ND, adapted_MD, paired)


def kid(base_ND: Floats, adapted_MD: Floats, *, paired: bool = False) -> float:
    """KID (Binkowski et al., ICLR 2018): squared MMD with the cubic kernel; NaN below two images."""
    return _mmd("kid", base_ND, adapted_MD, paired)


class KernelTest(NamedTuple):
    """The distance, its p value, and ``null_high``: what 95 % of comparisons without a difference stay below."""

    value: float | None
    p: float | None
    null_high: float | None
    how: str


def kernel_test(
    base_ND: Floats,
    adapted_MD: Floats,
    *,
    kernel: str,
    paired: bool,
    seed: int = 0,
    swaps: int = 999,
) -> KernelTest:
    """Permutation test of no difference (Gretton et al. 2012, section 5): swaps within pairs, or images dealt anew."""
    value = _mmd(kernel, base_ND, adapted_MD, paired)
    if np.isnan(value):
        return KernelTest(None, None, None, "not estimable: needs two images or more in both arms")
    rng = np.random.default_rng(seed)
    null = (
        _swapped(kernel, base_ND, adapted_MD, swaps, rng) if paired else _dealt(kernel, base_ND, adapted_MD, swaps, rng)
    )
    tolerance = 1e-9 * max(1.0, abs(value))
    p = (1 + int(np.sum(null >= value - tolerance))) / (1 + swaps)
    unit = "swaps within same-seed pairs" if paired else "dealings of unpaired images"
    return KernelTest(value, p, float(np.quantile(null, 0.95)), f"U-statistic, permutation: {swaps} {unit}")


def _kernel(name: str) -> Callable[[Floats, Floats], Floats]:
    if name not in KERNELS:
        raise ValueError(f"no kernel {name}; there are {sorted(KERNELS)}")
    return KERNELS[name]


def _mmd(name: str, base_ND: Floats, adapted_MD: Floats, paired: bool) -> float:
    kernel, count, other = _kernel(name), len(base_ND), len(adapted_MD)
    if count < 2 or other < 2:
        return float("nan")
    if paired:
        return float(_pair_kernel(name, base_ND, adapted_MD).sum() / (count * (count - 1)))
    base_ND, adapted_MD = np.asarray(base_ND, dtype=np.float64), np.asarray(adapted_MD, dtype=np.float64)
    base, adapted, cross = kernel(base_ND, base_ND), kernel(adapted_MD, adapted_MD), kernel(base_ND, adapted_MD)
    within = (base.sum() - np.trace(base)) / (count * (count - 1))
    return float(within + (adapted.sum() - np.trace(adapted)) / (other * (other - 1)) - 2 * cross.mean())


def _pair_kernel(name: str, base_ND: Floats, adapted_ND: Floats) -> Floats:
    """``h(i, j)`` of Gretton et al. 2012, equation 5, with an empty diagonal; swapping a pair flips its signs."""
    if len(base_ND) != len(adapted_ND):
        raise ValueError(f"paired arms need as many images, got {len(base_ND)} and {len(adapted_ND)}; use paired=False")
    kernel = _kernel(name)
    base_ND, adapted_ND = np.asarray(base_ND, dtype=np.float64), np.asarray(adapted_ND, dtype=np.float64)
    cross = kernel(base_ND, adapted_ND)
    result: Floats = kernel(base_ND, base_ND) + kernel(adapted_ND, adapted_ND) - cross - cross.T
    np.fill_diagonal(result, 0.0)
    return result


def _swapped(name: str, base_ND: Floats, adapted_ND: Floats, swaps: int, rng: np.random.Generator) -> Floats:
    pairs_NN = _pair_kernel(name, base_ND, adapted_ND)
    signs = rng.integers(0, 2, size=(swaps, len(pairs_NN))).astype(np.float64) * 2 - 1
    result: Floats = ((signs @ pairs_NN) * signs).sum(axis=1) / (len(pairs_NN) * (len(pairs_NN) - 1))
    return result


def _dealt(name: str, base_ND: Floats, adapted_MD: Floats, swaps: int, rng: np.random.Generator) -> Floats:
    images = np.concatenate([base_ND, adapted_MD]).astype(np.float64)
    kernel = _kernel(name)(images, images)
    np.fill_diagonal(kernel, 0.0)
    count, other = len(base_ND), len(adapted_MD)
    first = (rng.random((swaps, len(images))).argsort(axis=1) < count).astype(np.float64)
    sums = first @ kernel
    base = (sums * first).sum(axis=1)
    cross = sums.sum(axis=1) - base
    adapted = kernel.sum() - base - 2 * cross
    result: Floats = base / (count * (count - 1)) + adapted / (other * (other - 1)) - 2 * cross / (count * other)
    return result
