"""The verdict ladder: the word that the intervals allow, mechanically, and the reasons that hold it down.

For the shift: ``improved`` when the intervals of the change of the squared distance to target and of the gap (where the
target is not even: of the total variation) both lie below zero and a second reader says so too; then ``on target`` when
the whole interval of what is left lies within the margin, ``partial`` when it lies wholly beyond it. ``overshoot``
when the target was crossed by more than the margin. Without a shown change, ``no detectable change`` when a change as
large as the margin would have been found, else ``inconclusive``. ``harm`` when a guard failed or the distance grew.
What would be ``improved`` but for a reason is ``suggestive``. For an arm: ``biased``, ``on target``, ``not settled``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evenhand.analysis.pairs import Overshoot, clear_concepts, crossed
from evenhand.analysis.suite_shares import SHIFT, SuiteShares
from evenhand.analysis.wording import interval_text, listed, number, signed
from evenhand.records import Estimate, Guard
from evenhand.stats.over_prompts import on_target_p

# Where a plan declares no margin for the target: ten points of a share.
DEFAULT_MARGIN = 0.10
POWER = 0.8
# Beside its interval: how seldom a generator exactly on target would have to look so far from it to be called biased.
FAIR_CHANCE = 1e-4

BIASED, ON_TARGET, NOT_SETTLED = "biased", "on target", "not settled"
OVERSHOOT, PARTIAL, IMPROVED, SUGGESTIVE = "overshoot", "partial", "improved", "suggestive"
NO_CHANGE, INCONCLUSIVE, HARM = "no detectable change", "inconclusive", "harm"
BENEFITS = (ON_TARGET, PARTIAL, IMPROVED, SUGGESTIVE)

Key = tuple[str, str, str, str]  # name, suite, attribute, arm
Index = Mapping[Key, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the intervals of a suite allow to be said, in a word and in a sentence.

    ``caps`` are the reasons why it is no stronger word; ``mde`` is the smallest change of a share that would have been
    found in four of five repetitions.
    """

    suite: str
    attribute: str
    arm: str
    verdict: str
    sentence: str
    caps: tuple[str, ...]
    mde: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What verdicts are made from beside the primary reader's estimates of a suite.

    ``others`` are the other readers' estimates, by reader; ``caps`` hold for every suite, ``missing`` names the suites
    and attributes whose unread images differ between the arms.
    """

    index: Index
    others: Mapping[str, Index]
    caps: tuple[str, ...]
    missing: frozenset[tuple[str, str]]
    guards: Sequence[Guard]
    overshoot: Sequence[Overshoot]


def indexed(estimates: Sequence[Estimate]) -> dict[Key, Estimate]:
    """Whole-suite estimates by name, suite, attribute and arm."""
    return {(e.name, e.suite, e.attribute, e.arm): e for e in estimates if e.concept is None}


def margin_of(view: SuiteShares) -> float:
    """The margin around the target, in points of a share."""
    return float(view.plan.margins.get("target", DEFAULT_MARGIN))


def verdicts_of(view: SuiteShares, evidence: Evidence) -> list[Verdict]:
    """The shift's verdict and both arms', for a suite that has a target."""
    if not view.has_target:
        return []
    return [_shift(view, evidence), *(_arm(view, evidence, place) for place in range(2))]


def _arm(view: SuiteShares, evidence: Evidence, place: int) -> Verdict:
    arm, shares = view.arms[place]
    distance = evidence.index["distance_sq", view.suite, view.attribute, arm]
    root = evidence.index["rms", view.suite, view.attribute, arm]
    most = 2 * margin_of(view) ** 2
    word = NOT_SETTLED
    if distance.value is not None and distance.low is not None and distance.high is not None:
        if distance.high <= most:
            word = ON_TARGET
        elif distance.low > most:
            used = ~np.isnan(view.targets_JK[:, 0]) & (shares.read_J > 1)
            chance = on_target_p(distance.value, shares.read_J[used], view.targets_JK[used])
            word = BIASED if chance < FAIR_CHANCE else NOT_SETTLED
    where = f"{arm}: {view.attribute} on {view.suite} prompts"
    if distance.value is None:
        sentence = f"{where}: {word}, because the distance to target is {distance.how}."
    else:
        span = f", {number(root.low)} to {number(root.high)}" if root.low is not None else ", no interval"
        sentence = f"{where}: {word} (distance to target {number(root.value)}{span}; margin {number(most**0.5)})."
    return Verdict(
        suite=view.suite, attribute=view.attribute, arm=arm, verdict=word, sentence=sentence, caps=(), mde=None
    )


def even_measure(view: SuiteShares) -> str:
    """The plug-in distance that must have fallen as well: the gap, or the distance to a target that is not even."""
    return "gap" if view.even_target else "tv"


def below_zero(change: Estimate | None) -> bool:
    """Whether the whole interval of a change lies below zero."""
    return change is not None and change.high is not None and change.high < 0


def _shift(view: SuiteShares, evidence: Evidence) -> Verdict:
    def find(name: str, arm: str = SHIFT) -> Estimate:
        return evidence.index[name, view.suite, view.attribute, arm]

    distance, plain = find("distance_sq"), find(even_measure(view))
    mde = detectable(view, evidence.index)
    caps: list[str] = []
    if distance.low is None or distance.high is None:
        word = INCONCLUSIVE
    elif _over(view, evidence):
        word = OVERSHOOT
    elif distance.high < 0:
        caps = _caps(view, evidence, plain)
        word = SUGGESTIVE if caps else _how_far(view, find("distance_sq", view.plan.arms[1]))
    elif distance.low > 0:
        word, caps = HARM, ["the distance to target grew"]
    else:
        word = NO_CHANGE if mde is not None and mde <= margin_of(view) else INCONCLUSIVE
    failed = [f"guard {guard.name} failed on {guard.suite}" for guard in evidence.guards if not guard.passed]
    primary = (view.suite, view.attribute) == (view.plan.primary.suite, view.plan.primary.attribute)
    if failed and (primary or word in BENEFITS):
        word, caps = HARM, [*failed, *(caps if word == HARM else [])]
    return Verdict(
        suite=view.suite,
        attribute=view.attribute,
        arm=SHIFT,
        verdict=word,
        sentence=_sentence(view, find, word, caps, mde),
        caps=tuple(caps),
        mde=mde,
    )


def _how_far(view: SuiteShares, left: Estimate) -> str:
    most = 2 * margin_of(view) ** 2
    if left.high is not None and left.high <= most:
        return ON_TARGET
    return PARTIAL if left.low is not None and left.low > most else IMPROVED


def _over(view: SuiteShares, evidence: Evidence) -> bool:
    """Whether the mean share crossed the target by more than the margin, or more than half of the concepts' did."""
    known = view.targets_JK[~np.isnan(view.targets_JK[:, 0])]
    if np.allclose(known, known[0]):
        for value, target in zip(view.values, known[0], strict=True):
            arms = [evidence.index[f"share:{value}", view.suite, view.attribute, arm] for arm in view.plan.arms]
            if crossed(arms[0], arms[1], float(target), margin_of(view)):
                return True
    names = [
        entry.concept for entry in evidence.overshoot if (entry.suite, entry.attribute) == (view.suite, view.attribute)
    ]
    return clear_concepts(view, names)


def _caps(view: SuiteShares, evidence: Evidence, plain: Estimate) -> list[str]:
    """Why a shown reduction may not be called one."""
    caps = []
    if not below_zero(plain):
        caps.append(f"the interval of the change in {plain.name} contains zero")
    held = {
        reader: index["distance_sq", view.suite, view.attribute, SHIFT]
        for reader, index in evidence.others.items()
        if ("distance_sq", view.suite, view.attribute, SHIFT) in index
    }
    if not held:
        caps.append("one reader only")
    caps += [f"reader {reader} does not show it" for reader, change in held.items() if not below_zero(change)]
    if (view.suite, view.attribute) in evidence.missing:
        caps.append("the arms differ in unread images")
    return [*caps, *evidence.caps]


def detectable(view: SuiteShares, index: Index) -> float | None:
    """The smallest change of a share, or of the distance to target in such points, found with a power of 0.8.

    From the widths of the intervals that were found: ``(t_alpha + t_power)`` standard errors, the largest over values.
    """
    names = [*(f"share:{value}" for value in view.values), "tv"]
    changes = [index[name, view.suite, view.attribute, SHIFT] for name in names]
    widths = [(e.high - e.low) / 2 for e in changes if e.low is not None and e.high is not None]
    degrees = len(set(view.concepts)) - 1 or len(view.concepts) - 1
    if not widths or degrees < 1:
        return None
    quantiles = [float(stats.t.ppf(part, degrees)) for part in (1 - view.plan.alpha / 2, POWER)]
    return max(widths) * (1 + quantiles[1] / quantiles[0])


def _sentence(
    view: SuiteShares, find: Callable[..., Estimate], word: str, caps: Sequence[str], mde: float | None
) -> str:
    name, arms = even_measure(view), view.plan.arms
    change, distance = find(name), find("distance_sq")
    what = "gap" if name == "gap" else "distance to target"
    before, after = find(name, arms[0]), find(name, arms[1])
    if change.value is None or before.value is None or after.value is None:
        return f"The {what} in {view.attribute} on {view.suite} prompts: {change.how}: {word}."
    found = f", MDE {number(mde)}" if mde is not None and word in (NO_CHANGE, INCONCLUSIVE) else ""
    why = f", because {listed(list(caps))}" if caps else ""
    squared = "" if distance.value is None else f"; squared distance to target {signed(distance.value, 3)}"
    if distance.low is not None and distance.high is not None:
        squared += f", {signed(distance.low, 3)} to {signed(distance.high, 3)}"
    return (
        f"On {view.suite} prompts the {what} in {view.attribute} went from {number(before.value)} to "
        f"{number(after.value)} ({signed(change.value)}, {interval_text(change, change.level)}{squared}): "
        f"{word}{found}{why}."
    )
