"""How well images fit their prompts, with what the mix of people alone does to the score split off.

A scorer prefers some people in some prompts, so an adapter can lose score because it works. Letters: J prompts,
K values, N images, P texts, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evenhand.analysis.dose import dose_scales
from evenhand.analysis.scored import Floats, ScoredImages, ScoredPrompt, Scores, concepts, num_images
from evenhand.analysis.suite_shares import SHIFT
from evenhand.records import Estimate
from evenhand.stats.decomposition import UNREAD, Asked, Cell, Split, split_change
from evenhand.stats.intervals import Interval, mean_interval


def image_text_estimates(images: ScoredImages, suite: str) -> Iterator[Estimate]:
    """``image_text`` of both arms and their shift, ``image_text_match``, and where the suite is open its parts."""
    plan, prompts = images.plan, images.suite(suite)
    for arm in plan.arms:
        found = [(prompt.concept, images.scores(arm, prompt)) for prompt in plan.in_suite(suite)]
        yield from _arm_score(images, suite, arm, [(name, scores) for name, scores in found if scores is not None])
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


def dose_score_estimates(images: ScoredImages) -> Iterator[Estimate]:
    """``image_text`` of the headline suite at every scale of the adapter, of the images that all scales have."""
    plan = images.plan
    scales = {name: point.arm for name, point in dose_scales(plan).items() if point.arm in images.arms}
    if not set(scales.values()) - set(plan.arms):
        return
    found: dict[str, list[tuple[str, Scores]]] = {name: [] for name in scales}
    for prompt in plan.in_suite(plan.primary.suite):
        scores = {name: images.scores(arm, prompt) for name, arm in scales.items()}
        made = {name: each for name, each in scores.items() if each is not None}
        shared = set.intersection(*(set(each.seeds) for each in made.values())) if len(made) == len(scales) else set()
        for name, each in made.items() if shared else ():
            found[name].append((prompt.concept, each.chosen(shared)))
    for name, rows in found.items():
        yield from _arm_score(images, plan.primary.suite, name, rows)


def _arm_score(images: ScoredImages, suite: str, arm: str, found: Sequence[tuple[str, Scores]]) -> Iterator[Estimate]:
    """The mean score over prompts, given with their concepts; nothing without one."""
    if found:
        means_J = np.array([scores.image_text_N.mean() for _, scores in found])
        interval = mean_interval(means_J, [concept for concept, _ in found], level=images.plan.level)
        counts = len(found), sum(len(scores.seeds) for _, scores in found)
        yield images.estimate("image_text", suite, arm, interval, counts=counts)


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


def score_change(images: ScoredImages, suite: str, *, level: float) -> Split:
    """The change of a suite's mean score and its two parts (see ``stats.decomposition``).

    The score of a value that no prompt shows in both arms is that of the explicit prompts of the same concept.
    """
    prompts = images.suite(suite)
    shown = {value for entry in prompts for arm in (entry.base, entry.adapted) for value in arm.values}
    values = sorted(value for value in shown if value is not None)
    base, adapted = ([_cell(getattr(entry, arm), values) for entry in prompts] for arm in ("base", "adapted"))
    asked = Asked(*(_asked_scores(images, prompts, values, arm) for arm in ("base", "adapted")))
    return split_change(base, adapted, concepts(prompts), num_values=len(values), level=level, asked=asked)


def _cell(scores: Scores, values: Sequence[str]) -> Cell:
    numbers = {value: number for number, value in enumerate(values)}
    shown = [UNREAD if value is None else numbers[value] for value in scores.values]
    return Cell(scores.image_text_N, np.array(shown, dtype=np.intp))


def _asked_scores(images: ScoredImages, prompts: Sequence[ScoredPrompt], values: Sequence[str], arm: str) -> Floats:
    """How well the explicit prompts' images that show a value fit each prompt of the same concept; NaN without any."""
    found_JK = np.full((len(prompts), len(values)), np.nan)
    for number, value in enumerate(values):
        asked = images.asked_for(value)
        for row, entry in enumerate(prompts):
            features = [getattr(other, arm).of(value) for other in asked.get(entry.prompt.concept, ())]
            scores = [features_ND @ entry.text_D for features_ND in features if len(features_ND)]
            if scores:
                found_JK[row, number] = np.concatenate(scores).mean()
    return found_JK
