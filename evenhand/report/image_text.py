"""How well images fit their prompts, with what the mix of people alone does to the score split off.

A scorer prefers some people in some prompts, so an adapter can lose score because it works. Kitagawa 1955 splits a
change of a mean into the change of the mix at equal scores, and the change of scores at an equal mix: the second is
what an adapter costs. Letters: J prompts, K values, N images, P texts, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenhand.records import Estimate
from evenhand.report.scored import Floats, ScoredImages, ScoredPrompt, Scores, concepts, num_images
from evenhand.report.suite_shares import SHIFT
from evenhand.stats.intervals import Interval, jackknife_interval, mean_interval

Mask = NDArray[np.bool_]


class Change(NamedTuple):
    """The change of the mean score over prompts: ``total = composition + within``."""

    total: Interval
    composition: Interval
    within: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class _Means:
    """Per prompt of one arm: its mean score, share of images read, and mean score of those (J); shares of the values
    among them, and mean score of each (J, K). NaN where there is no such image."""

    score_J: Floats
    read_J: Floats
    read_score_J: Floats
    shares_JK: Floats
    scores_JK: Floats


def image_text_estimates(images: ScoredImages, suite: str) -> Iterator[Estimate]:
    """``image_text`` of every scored arm and its shift, ``image_text_match``, and where the suite is open its parts."""
    plan, prompts = images.plan, images.suite(suite)
    for arm in images.arms:
        rows = [(prompt, images.scores(arm, prompt)) for prompt in plan.in_suite(suite)]
        found = [(prompt, scores) for prompt, scores in rows if scores is not None]
        if found:
            means_J = np.array([scores.image_text_N.mean() for _, scores in found])
            interval = mean_interval(means_J, [prompt.concept for prompt, _ in found], level=plan.level)
            counts = len(found), sum(len(scores.seeds) for _, scores in found)
            yield images.estimate("image_text", suite, arm, interval, counts=counts)
    if not prompts:
        return
    counts = len(prompts), num_images(prompts)
    change = score_change(images, suite, level=plan.level)
    yield images.estimate("image_text", suite, SHIFT, change.total, counts=counts)
    if suite in images.open_suites():
        for name, interval in (("composition", change.composition), ("within", change.within)):
            yield images.estimate(
                f"image_text_{name}", suite, SHIFT, interval, attribute=plan.primary.attribute, counts=counts
            )
    match = image_text_match(images, suite)
    if match is not None:
        yield images.estimate("image_text_match", suite, plan.arms[0], match.gain, counts=counts)


class Match(NamedTuple):
    """``gain``: by how much the base's images fit their own prompt better than those of other concepts, in cosines.

    ``told_apart`` is the share of these images that fit their own prompt better.
    """

    gain: Interval
    told_apart: float


def image_text_match(images: ScoredImages, suite: str) -> Match | None:
    """What the scorer makes of a suite's prompts; None without images, or without another concept.

    The unit of a loss: cosines of one scorer mean nothing to another, a part of this gain does.
    """
    prompts = images.suite(suite)
    gains = []
    for entry in prompts:
        others_PD = images.other_texts(suite, entry.prompt.concept)
        if not len(others_PD):
            return None
        gains.append(entry.base.image_text_N - (entry.base.features_ND @ others_PD.T).mean(axis=1))
    if not gains:
        return None
    means_J = np.array([gain_N.mean() for gain_N in gains])
    told_apart = float((np.concatenate(gains) > 0).mean())
    return Match(mean_interval(means_J, concepts(prompts), level=images.plan.level), told_apart)


def score_change(images: ScoredImages, suite: str, *, level: float) -> Change:
    """The change of the mean score and its two parts, with jackknife intervals over prompts (or concepts).

    The mix is that of the values among images that were read: images in which nothing could be read count as a change
    of quality, whatever they score, since a spoilt picture must not pass for another mix. A value that a prompt shows
    in one arm only gets that value's mean change in the other prompts. Where no prompt shows it in both, the missing
    score is that of images which were asked for it: the explicit prompts of the same concept.
    """
    prompts = images.suite(suite)
    names = concepts(prompts)
    shown = {value for entry in prompts for arm in (entry.base, entry.adapted) for value in arm.values}
    values = sorted(value for value in shown if value is not None)
    base = _means([entry.base for entry in prompts], values)
    adapted = _means([entry.adapted for entry in prompts], values)
    both_J = (base.read_J > 0) & (adapted.read_J > 0)
    changes_JK = adapted.scores_JK - base.scores_JK
    for number, value in enumerate(values):
        if np.isnan(changes_JK[both_J, number]).all():
            changes_JK[:, number] = _asked_changes(images, prompts, value, base, adapted, number)
    total_J = adapted.score_J - base.score_J
    weight_J = (base.read_J + adapted.read_J) / 2
    weights_JK = (base.shares_JK + adapted.shares_JK) / 2
    read_J = adapted.read_score_J - base.read_score_J
    total = mean_interval(total_J, names, level=level)
    if both_J.any() and np.isnan(changes_JK[both_J]).all():
        nothing = Interval(None, None, None, "not estimable: no value is shown by both arms of a prompt")
        return Change(total, nothing, nothing)

    def composition(mask: Mask) -> float:
        used_J = mask & both_J
        if not used_J.any():
            return 0.0
        within_J = _within(weights_JK[used_J], changes_JK[used_J])
        return float((weight_J[used_J] * (read_J[used_J] - within_J)).sum() / mask.sum())

    return Change(
        total=total,
        composition=jackknife_interval(composition, names, level=level),
        within=jackknife_interval(lambda mask: float(total_J[mask].mean()) - composition(mask), names, level=level),
    )


def _asked_changes(
    images: ScoredImages, prompts: Sequence[ScoredPrompt], value: str, base: _Means, adapted: _Means, number: int
) -> Floats:
    """Change of a value's score in each prompt, with explicit prompts' images where an arm has none; NaN without."""
    asked = images.asked_for(value)
    changes_J = np.full(len(prompts), np.nan)
    for row, entry in enumerate(prompts):
        explicit = asked.get(entry.prompt.concept, [])
        scores = []
        for arm, means in (("base", base), ("adapted", adapted)):
            features = [getattr(other, arm).of(value) for other in explicit]
            found = [features_ND @ entry.text_D for features_ND in features if len(features_ND)]
            own = means.scores_JK[row, number]
            scores.append(own if not np.isnan(own) or not found else np.concatenate(found).mean())
        changes_J[row] = scores[1] - scores[0]
    return changes_J


def _means(arms: Sequence[Scores], values: Sequence[str]) -> _Means:
    masks = [np.array([[shown == value for value in values] for shown in arm.values]) for arm in arms]
    counts_JK = np.stack([mask.reshape(len(arm.values), -1).sum(axis=0) for arm, mask in zip(arms, masks, strict=True)])
    sums_JK = np.stack(
        [arm.image_text_N @ mask.reshape(len(arm.values), -1) for arm, mask in zip(arms, masks, strict=True)]
    )
    read_J = counts_JK.sum(axis=1).astype(np.float64)
    return _Means(
        score_J=np.array([arm.image_text_N.mean() for arm in arms]),
        read_J=read_J / np.array([len(arm.seeds) for arm in arms]),
        read_score_J=_ratio(sums_JK.sum(axis=1), read_J),
        shares_JK=_ratio(counts_JK, read_J[:, None]),
        scores_JK=_ratio(sums_JK, counts_JK),
    )


def _ratio(above: Floats, below: Floats) -> Floats:
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), below)
    result: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return result


def _within(weights_JK: Floats, changes_JK: Floats) -> Floats:
    """Kitagawa's second part for each prompt; a change that is not known is the value's mean, or that of all values."""
    known_JK = ~np.isnan(changes_JK)
    weighted_JK = np.where(known_JK, weights_JK * np.where(known_JK, changes_JK, 0.0), 0.0)
    weight_K = np.where(known_JK, weights_JK, 0.0).sum(axis=0)
    overall = weighted_JK.sum() / weight_K.sum() if weight_K.sum() > 0 else 0.0
    pooled_K = np.where(weight_K > 0, weighted_JK.sum(axis=0) / np.where(weight_K > 0, weight_K, 1.0), overall)
    result: Floats = (weights_JK * np.where(known_JK, changes_JK, pooled_K)).sum(axis=1)
    return result
