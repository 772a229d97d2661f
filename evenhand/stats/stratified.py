"""Intervals for *these very prompts*: only the images are drawn anew, the prompts stay. J prompts, n_j images.

Beside the t interval over prompts, which speaks of prompts like these. Each prompt weighs the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenhand.stats.intervals import Interval, paired_difference, t_quantile, unpaired_difference, wilson

Floats = NDArray[np.float64]


def stratified_mean(values: Sequence[Floats], *, level: float) -> Interval:
    """Interval of the mean over these prompts of a score in [0, 1]; one array of image scores for each prompt.

    Wilson's interval at the effective number of images ``p (1 - p) / V``, where V is the stratified variance
    ``sum(s_j^2 / n_j) / J^2`` (Cochran 1977, section 5.3): Korn and Graubard 1998 proposed it for surveys. It stays
    inside [0, 1] and has a width where every image shows the same.
    """
    read = [entry for entry in values if len(entry)]
    if not read:
        return Interval(None, None, None, "not estimable: no image was read")
    if len(read) == 1 and _whole(read[0]):
        return wilson(int(read[0].sum()), len(read[0]), level=level)
    value = float(np.mean([entry.mean() for entry in read]))
    images = sum(len(entry) for entry in read)
    variance, degrees = _variance(read)
    one_image = _one_image(read)
    clear_of_ends = min(max(value, one_image), 1 - one_image) if one_image < 0.5 else 0.5
    effective = clear_of_ends * (1 - clear_of_ends) / (variance + one_image**2)
    z = t_quantile(level, degrees)
    middle = (value + z * z / (2 * effective)) / (1 + z * z / effective)
    spread = math.sqrt(value * (1 - value) / effective + z * z / (4 * effective**2))
    half = z / (1 + z * z / effective) * spread
    how = f"these prompts: Wilson interval at the effective number of images, {len(read)} prompts, {images} images"
    return Interval(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)), how)


def stratified_shift(base: Sequence[Floats], adapted: Sequence[Floats], *, paired: bool, level: float) -> Interval:
    """Interval of the mean change over these prompts; rows of a prompt are pairs when ``paired``.

    t interval with the stratified variance and Satterthwaite's degrees of freedom (Cochran 1977, section 5.4). As in
    Bonett and Price 2012, one image that gained and one that lost are added to the variance, so that no change at all
    in the images seen is not certainty.
    """
    both = [(old, new) for old, new in zip(base, adapted, strict=True) if len(old) and len(new)]
    if not both:
        return Interval(None, None, None, "not estimable: no prompt was read in both arms")
    if len(both) == 1 and all(_whole(entry) for entry in both[0]):
        return _one_prompt(*both[0], paired=paired, level=level)
    value = float(np.mean([new.mean() - old.mean() for old, new in both]))
    if paired:
        differences = [new - old for old, new in both]
        variance, degrees = _variance(differences)
        variance += 2 * _one_image(differences) ** 2
        unit = f"{sum(len(entry) for entry in differences)} pairs"
    else:
        arms = [[old for old, _ in both], [new for _, new in both]]
        parts = [_variance(arm) for arm in arms]
        variance = sum(part[0] for part in parts)
        degrees = _satterthwaite([(part[0], part[1]) for part in parts])
        variance += sum(_one_image(arm) ** 2 for arm in arms)
        unit = "unpaired images"
    half = t_quantile(level, degrees) * math.sqrt(variance)
    how = f"these prompts: stratified t interval over {unit} of {len(both)} prompts"
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), how)


def _whole(values_N: Floats) -> bool:
    return bool(np.all((values_N == 0) | (values_N == 1)))


def _one_prompt(old_N: Floats, new_N: Floats, *, paired: bool, level: float) -> Interval:
    if paired:
        return paired_difference(int(np.sum(new_N > old_N)), int(np.sum(new_N < old_N)), len(new_N), level=level)
    return unpaired_difference(int(new_N.sum()), len(new_N), int(old_N.sum()), len(old_N), level=level)


def _one_image(values: Sequence[Floats]) -> float:
    """By how much one image moves the mean over prompts (root mean square over prompts), with two images added."""
    return math.sqrt(float(np.mean([1 / (len(values) * len(entry) + 2) ** 2 for entry in values])))


def _variance(values: Sequence[Floats]) -> tuple[float, float]:
    """Variance of the mean over prompts, and its degrees of freedom.

    A prompt with one image gets the others' spread. If all have one, the spread between prompts stands in: it is too
    large where prompts differ (Cochran 1977, section 5A.12, collapsed strata).
    """
    repeated = [entry for entry in values if len(entry) > 1]
    if not repeated and len(values) == 1:
        return 1.0, 1.0
    if not repeated:
        return float(np.var([entry[0] for entry in values], ddof=1)) / len(values), len(values) - 1.0
    spreads = [float(entry.var(ddof=1)) for entry in repeated]
    typical = float(np.mean(spreads))
    parts = [(spread / len(entry), len(entry) - 1.0) for entry, spread in zip(repeated, spreads, strict=True)]
    variance = sum(part for part, _ in parts) + typical * (len(values) - len(repeated))
    return variance / len(values) ** 2, _satterthwaite(parts)


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946); all of them together where there is no spread."""
    squares = sum(part**2 / degrees for part, degrees in parts)
    if squares <= 0:
        return sum(degrees for _, degrees in parts)
    return float(sum(part for part, _ in parts)) ** 2 / squares
