from __future__ import annotations

import math

import numpy as np
import pytest

from evenhand.records import Attribute, Prompt, SubjectReading, Target
from evenhand.training.validation_scores import Seen, TargetScore, count, see, wanted

SKIN = Attribute(
    name="skin",
    values=("light", "medium", "dark"),
    forms=dict.fromkeys(("light", "medium", "dark"), "{}"),
    words=dict.fromkeys(("light", "medium", "dark"), ()),
)
EVEN = (Target(attribute="skin", shares=(1 / 3, 1 / 3, 1 / 3)),)


def neutral(concept: str) -> Prompt:
    return Prompt(id=concept, text=concept, concept=concept, suite="heldout")


def stating(value: str) -> Prompt:
    return Prompt(id=value, text=value, concept="x", suite="explicit", expects={"skin": value})


def reading(subject: int, value: str | None, attribute: str = "skin") -> SubjectReading:
    unread = "too dark" if value is None else None
    return SubjectReading(subject=subject, attribute=attribute, value=value, probs=None, unread=unread)


def seen(**changes: object) -> Seen:
    nothing = {"shares": None, "distance_sq": 0.2, "standard_error": None, "shown": 0.9, "unread": 0.1}
    return Seen(**{**nothing, "num_images": 4, "num_unread": 0, **changes})


def test_subjects_are_counted_by_value_and_altogether() -> None:
    readings = [reading(0, "dark"), reading(0, "worn", "glasses"), reading(1, "dark"), reading(2, None)]
    assert count(readings, SKIN) == [0, 0, 2, 3]


def test_the_distance_is_unbiased_over_every_outcome_of_a_generator() -> None:
    """Exact, by enumeration: all 3^3 outcomes of three images, weighted, give the distance of the shares themselves."""
    truth = np.array([0.6, 0.3, 0.1])
    mean = 0.0
    for first in range(3):
        for second in range(3):
            for third in range(3):
                counts = [[int(value == shown) for value in range(3)] + [1] for shown in (first, second, third)]
                found = see([neutral("a")], [0, 0, 0], np.array(counts), attribute=SKIN, targets=EVEN)
                mean += truth[first] * truth[second] * truth[third] * found.distance_sq
    assert mean == pytest.approx(((truth - 1 / 3) ** 2).sum())


def test_what_was_seen_of_two_prompts_by_hand() -> None:
    """a: light, light, dark; b: a group of light and dark, one of dark alone. Explicit: one of two subjects is dark."""
    counts = [[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 3], [0, 0, 2, 2], [0, 0, 1, 2]]
    found = see(
        [neutral("a"), neutral("b"), stating("dark")],
        [0, 0, 0, 1, 1, 2],
        np.array(counts),
        attribute=SKIN,
        targets=EVEN,
    )
    assert found.shares == pytest.approx({"light": (2 / 3 + 1 / 4) / 2, "medium": 0.0, "dark": (1 / 3 + 3 / 4) / 2})
    first = (1 / 9 + 1 / 9 + 0) - (1 / 3 + 1 / 3) / 3  # squared distance minus the variance of the mean, three images
    second = (1 / 144 + 1 / 9 + 25 / 144) - (1 / 8 + 1 / 8) / 2
    assert found.distance_sq == pytest.approx((first + second) / 2)
    assert found.standard_error == pytest.approx(abs(first - second) / math.sqrt(2) / math.sqrt(2))
    assert found.shown == pytest.approx(0.5)
    assert (found.unread, found.num_images, found.num_unread) == (0.0, 6, 0)


def test_unread_images_are_counted_not_dropped() -> None:
    counts = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    found = see([neutral("a"), stating("dark")], [0, 0, 0, 1, 1], counts, attribute=SKIN, targets=EVEN)
    assert found.shares == pytest.approx({"light": 0.5, "medium": 0.5, "dark": 0.0})
    assert found.unread == pytest.approx(1 / 3)
    assert found.shown == pytest.approx(0.5)  # the unread picture does not show what it was asked for
    assert found.num_unread == 2


def test_too_few_readings_are_no_score_rather_than_a_good_one() -> None:
    found = see([neutral("a")], [0, 0], np.array([[1, 0, 0, 1], [0, 0, 0, 1]]), attribute=SKIN, targets=EVEN)
    assert (found.distance_sq, found.shares) == (None, None)
    assert TargetScore(obedience_weight=1.0, unread_weight=1.0).of(found, found) is None


def test_the_score_is_minus_the_distance_where_nothing_was_lost() -> None:
    score = TargetScore(obedience_weight=2.0, unread_weight=3.0)
    assert score.of(seen(), seen(distance_sq=0.9)) == -0.2
    assert score.of(seen(shown=1.0, unread=0.0), seen()) == -0.2  # what was won beside the target is no score


def test_lost_obedience_and_vanished_people_cost_their_weights() -> None:
    score = TargetScore(obedience_weight=2.0, unread_weight=3.0)
    assert score.of(seen(shown=0.8), seen()) == pytest.approx(-0.2 - 2.0 * 0.1)
    assert score.of(seen(unread=0.3), seen()) == pytest.approx(-0.2 - 3.0 * 0.2)
    assert TargetScore(obedience_weight=0.0, unread_weight=0.0).of(seen(shown=0.0, unread=1.0), seen()) == -0.2


def test_a_suite_without_stated_values_is_scored_by_its_distance() -> None:
    assert TargetScore(obedience_weight=1.0, unread_weight=1.0).of(seen(shown=None), seen(shown=None)) == -0.2


def test_weights_are_not_negative() -> None:
    with pytest.raises(ValueError, match="obedience_weight must be >= 0, got -1"):
        TargetScore(obedience_weight=-1.0, unread_weight=0.0)


def test_a_concepts_own_target_wins_over_that_of_all() -> None:
    both = (Target(attribute="skin", shares=(1, 0, 0), concept="a"), *EVEN)
    assert wanted(both, "a") == (1.0, 0.0, 0.0)
    assert wanted(both, "b") == EVEN[0].shares
    with pytest.raises(ValueError, match="no target for the concept 'b'; there are targets for a"):
        wanted(both[:1], "b")


def test_a_concept_that_is_left_alone_has_no_part_in_shares_and_distance() -> None:
    alone = (Target(attribute="skin", shares=(), concept="a"), *EVEN)
    assert wanted(alone, "a") == ()
    counts = np.array([[1, 0, 0, 1]] * 4 + [[1, 0, 0, 1], [0, 1, 0, 1]])
    rows = [0, 0, 0, 0, 1, 1]
    both = see([neutral("a"), neutral("b")], rows, counts, attribute=SKIN, targets=alone)
    other = see([neutral("b")], [0, 0], counts[4:], attribute=SKIN, targets=EVEN)
    assert (both.shares, both.distance_sq) == (other.shares, other.distance_sq)
    assert both.num_images == 6


def test_metrics_leave_out_what_could_not_be_told() -> None:
    assert seen(distance_sq=None, shown=None).metrics() == {"unread": 0.1}
    assert seen(shares={"light": 0.5}).metrics()["share:light"] == 0.5
