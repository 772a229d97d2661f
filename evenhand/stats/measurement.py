"""Undoing a reader's known errors, with the uncertainty of how well they are known.

``confusion_KK[k, l]`` is the number of labelled images that truly are k and were read as l. All this is right only
where the reader errs alike in both arms: test it (:func:`evenhand.stats.audits.differential_error`), or use labels on
both arms.
Sources: Rogan and Gladen 1978 (two values); Saerens et al. 2002 (EM); Lang and Reiczigel 2014 (error of the rates).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from evenhand.stats.intervals import Interval

Floats = NDArray[np.float64]
WEAKEST = 0.3  # smallest singular value, and least sensitivity + specificity - 1, that a correction is made for
DRAWS = 2_000
EM_STEPS, EM_TOLERANCE = 10_000, 1e-12
SUM_WEIGHT = 1_000.0  # of the row that makes shares sum to one, against rows of shares


def rates(confusion_KK: Floats) -> Floats:
    """Rows of ``P(read l | truly k)``; rows without labels are NaN."""
    counts_KK = np.asarray(confusion_KK, dtype=np.float64)
    totals_K = counts_KK.sum(axis=1, keepdims=True)
    result: Floats = np.divide(counts_KK, totals_K, out=np.full(counts_KK.shape, np.nan), where=totals_K > 0)
    return result


def too_weak(confusion_KK: Floats) -> str | None:
    """Why the reader cannot be corrected; None where it can.

    A correction multiplies the error by about ``1 / (Se + Sp - 1)``.
    """
    rates_KK = rates(confusion_KK)
    if np.any(np.isnan(rates_KK)):
        missing = [int(row) for row in np.flatnonzero(np.isnan(rates_KK).any(axis=1))]
        return f"no labelled image is truly value number {missing}"
    youden = float(rates_KK[0, 0] + rates_KK[1, 1] - 1) if len(rates_KK) == 2 else 1.0
    smallest = float(np.linalg.svd(rates_KK, compute_uv=False)[-1])
    if youden < WEAKEST:
        return f"reader too weak: sensitivity + specificity - 1 is {youden:.2f}, below {WEAKEST}"
    if smallest < WEAKEST:
        return f"reader too weak: smallest singular value of its confusion is {smallest:.2f}, below {WEAKEST}"
    return None


def invert_simplex(q_K: Floats, confusion_KK: Floats) -> Floats:
    """True shares whose reading is nearest to the observed shares ``q``: least squares on the simplex (NNLS)."""
    return _nearest(np.asarray(q_K, dtype=np.float64), rates(confusion_KK))


def _nearest(q_K: Floats, rates_KK: Floats) -> Floats:
    matrix = np.vstack([rates_KK.T, SUM_WEIGHT * np.ones(len(q_K))])
    solution, _ = optimize.nnls(matrix, np.append(q_K, SUM_WEIGHT))
    result: Floats = solution / solution.sum()
    return result


def invert_em(q_K: Floats, confusion_KK: Floats) -> Floats:
    """True shares of highest likelihood given the observed shares; equals the inverse where that is inside."""
    q_K, rates_KK = np.asarray(q_K, dtype=np.float64), rates(confusion_KK)
    shares_K = np.full(len(q_K), 1 / len(q_K))
    for _ in range(EM_STEPS):
        read_K = shares_K @ rates_KK
        ratio_K = np.divide(q_K, read_K, out=np.zeros(len(q_K)), where=read_K > 0)
        updated_K = shares_K * (rates_KK @ ratio_K)
        updated_K /= updated_K.sum()
        moved = float(np.abs(updated_K - shares_K).max())
        shares_K = updated_K
        if moved < EM_TOLERANCE:
            break
    return shares_K


def rogan_gladen(count: int, n: int, confusion_22: Floats, *, level: float, seed: int = 0) -> Interval:
    """True share of value 0, of which ``count`` of ``n`` images were read: ``(q + Sp - 1) / (Se + Sp - 1)``.

    Percentiles of draws of q, Se and Sp from their Jeffreys posteriors.
    """
    reason = too_weak(confusion_22)
    if n == 0 or reason is not None:
        return Interval(None, None, None, f"not corrected: {reason or 'no image was read'}")
    rng = np.random.default_rng(seed)
    (hits, misses), (alarms, rejections) = np.asarray(confusion_22, dtype=np.float64)
    sensitivity = rng.beta(hits + 0.5, misses + 0.5, DRAWS)
    specificity = rng.beta(rejections + 0.5, alarms + 0.5, DRAWS)
    observed = rng.beta(count + 0.5, n - count + 0.5, DRAWS)
    drawn = (observed + specificity - 1) / (sensitivity + specificity - 1)
    low, high = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), 0.0, 1.0)
    rates_22 = rates(confusion_22)
    value = float(np.clip((count / n + rates_22[1, 1] - 1) / (rates_22[0, 0] + rates_22[1, 1] - 1), 0.0, 1.0))
    return Interval(value, min(value, float(low)), max(value, float(high)), "Rogan-Gladen, errors of the rates drawn")


def corrected_shares(counts_K: Floats, confusion_KK: Floats, *, level: float, seed: int = 0) -> tuple[Interval, ...]:
    """True shares of all values of independent images, of which ``counts`` were read.

    Percentiles of the simplex inverse over Dirichlet draws of the observed shares and of each row of rates.
    """
    counts_K = np.asarray(counts_K, dtype=np.float64)
    reason = too_weak(confusion_KK)
    if not counts_K.sum() or reason is not None:
        nothing = Interval(None, None, None, f"not corrected: {reason or 'no image was read'}")
        return (nothing,) * len(counts_K)
    rng = np.random.default_rng(seed)
    observed = rng.dirichlet(counts_K + 1 / len(counts_K), size=DRAWS)
    drawn_rates = _drawn_rates(confusion_KK, rng)
    drawn = _solved(observed, drawn_rates)
    for row in np.flatnonzero((drawn < 0).any(axis=1)):  # the inverse lies outside the simplex
        drawn[row] = _nearest(observed[row], drawn_rates[row])
    value_K = invert_simplex(counts_K / counts_K.sum(), confusion_KK)
    low_K, high_K = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    how = "simplex inverse of the reader's confusion, errors of the rates drawn"
    return tuple(
        Interval(float(value), min(float(value), float(low)), max(float(value), float(high)), how)
        for value, low, high in zip(value_K, low_K, high_K, strict=True)
    )


def corrected_shift(
    base: Sequence[Floats],
    adapted: Sequence[Floats],
    confusion_KK: Floats,
    *,
    paired: bool,
    level: float,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """True change of each value's share, as a mean over prompts; one array (images, values) for each prompt and arm.

    The inverse is linear, so the observed mean change is drawn from its t distribution over prompts (concepts with
    ``clusters``; images where there is one prompt) and each draw is undone by drawn rates.
    """
    both = [(old, new) for old, new in zip(base, adapted, strict=True) if len(old) and len(new)]
    reason = too_weak(confusion_KK)
    if not both or reason is not None:
        nothing = Interval(None, None, None, f"not corrected: {reason or 'no prompt was read in both arms'}")
        return (nothing,) * len(confusion_KK)
    names = (
        None
        if clusters is None
        else [name for name, old, new in zip(clusters, base, adapted, strict=True) if len(old) and len(new)]
    )
    shift_JK = np.stack([new.mean(axis=0) - old.mean(axis=0) for old, new in both])
    covariance_KK, degrees = _covariance(both, shift_JK, paired, names)
    rng = np.random.default_rng(seed)
    noise = rng.multivariate_normal(np.zeros(len(confusion_KK)), covariance_KK, size=DRAWS, method="eigh")
    scale = np.sqrt(degrees / rng.chisquare(degrees, size=(DRAWS, 1)))
    observed = shift_JK.mean(axis=0) + noise * scale
    drawn = _solved(observed, _drawn_rates(confusion_KK, rng))
    value_K = np.clip(np.linalg.solve(rates(confusion_KK).T, shift_JK.mean(axis=0)), -1.0, 1.0)
    low_K, high_K = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0), -1.0, 1.0)
    unit = f"{len(both)} prompts" if len(both) > 1 else "images"
    how = f"inverse of the reader's confusion over {unit}, errors of the rates drawn; assumes alike errors in both arms"
    return tuple(
        Interval(float(value), min(float(value), float(low)), max(float(value), float(high)), how)
        for value, low, high in zip(value_K, low_K, high_K, strict=True)
    )


def _covariance(
    both: Sequence[tuple[Floats, Floats]], shift_JK: Floats, paired: bool, clusters: Sequence[str] | None
) -> tuple[Floats, float]:
    """Covariance of the mean shift and its degrees of freedom: over prompts, of one prompt over its images."""
    if len(both) > 1:
        names = np.asarray([str(row) for row in range(len(both))] if clusters is None else clusters)
        _, indices = np.unique(names, return_inverse=True)
        if indices.max() == 0:
            indices = np.arange(len(both))
        count = int(indices.max()) + 1
        sums_CK = np.zeros((count, shift_JK.shape[1]))
        np.add.at(sums_CK, indices, shift_JK - shift_JK.mean(axis=0))
        covariance_KK: Floats = (count / (count - 1) / len(both) ** 2) * (sums_CK.T @ sums_CK)
        return covariance_KK, count - 1.0
    old_NK, new_NK = both[0]
    if paired:
        return _image_covariance(new_NK - old_NK), max(1.0, len(new_NK) - 1.0)
    return _image_covariance(new_NK) + _image_covariance(old_NK), max(1.0, min(len(new_NK), len(old_NK)) - 1.0)


def _image_covariance(values_NK: Floats) -> Floats:
    centred = values_NK - values_NK.mean(axis=0)
    result: Floats = centred.T @ centred / max(1, len(values_NK) - 1) / len(values_NK)
    return result


def _solved(read_SK: Floats, rates_SKK: Floats) -> Floats:
    """True shares or shifts (S, K) of which each draw's reading is a row of ``read_SK``."""
    solved_SK1 = np.linalg.solve(np.swapaxes(rates_SKK, 1, 2), read_SK[:, :, None])
    return np.asarray(solved_SK1[:, :, 0], dtype=np.float64)


def _drawn_rates(confusion_KK: Floats, rng: np.random.Generator) -> Floats:
    """Matrices of rates (draws, K, K), each row from its Dirichlet posterior with prior 1 / K."""
    counts_KK = np.asarray(confusion_KK, dtype=np.float64)
    rows = [rng.dirichlet(row + 1 / len(row), size=DRAWS) for row in counts_KK]
    return np.stack(rows, axis=1)
