"""Shares and distances against counts made by hand and the formulas of DESIGN, and what must not hide in a pool."""

from __future__ import annotations

import math

import pytest

from evenhand.records import Target
from evenhand.set_audit.shares import MeanDistance, Shares, shares_of
from evenhand.set_audit.wanted import Wanted
from tests.set_audit.made import PRESENTATION, SKIN, picture, read_as, reading

EVEN = Wanted(
    attributes=(PRESENTATION,), targets=(Target(attribute="presentation", shares=(0.5, 0.5)),), origin="given"
)
BOTH = Wanted(
    attributes=(PRESENTATION, SKIN),
    targets=(
        Target(attribute="presentation", shares=(0.5, 0.5)),
        Target(attribute="skin", shares=(0.5, 0.25, 0.25)),
    ),
    origin="given",
)


def entry(shares: list[Shares], concept: str | None, attribute: str = "presentation") -> Shares:
    (found,) = [each for each in shares if each.concept == concept and each.attribute == attribute]
    return found


def mean(means: list[MeanDistance], attribute: str = "presentation") -> MeanDistance:
    (found,) = [each for each in means if each.attribute == attribute]
    return found


def test_shares_are_counted_among_the_pictures_that_were_read() -> None:
    shares, _ = shares_of(read_as("mechanic", 30, 10, unread=10), EVEN, reader="reader", level=0.95)
    found = entry(shares, "mechanic")
    assert (found.n_images, found.n_read, found.n_subjects) == (50, 40, 40)
    woman, man = found.values
    assert (woman.count, man.count) == (30, 10)
    assert (woman.share, man.share) == (0.75, 0.25)
    # If none of the ten unread showed a woman, or all.
    assert (woman.least, woman.most) == (0.6, 0.8)
    assert (woman.target, man.target) == (0.5, 0.5)
    # Wilson's interval of 30 in 40; with one subject in each picture the ratio estimator is nearly that.
    assert woman.low == pytest.approx(0.598, abs=0.01)
    assert woman.high == pytest.approx(0.858, abs=0.01)


def test_opposite_biases_cancel_in_the_pool_and_not_in_the_mean_over_concepts() -> None:
    pictures = [*read_as("mechanic", 0, 40), *read_as("nurse", 40, 0)]
    shares, means = shares_of(pictures, EVEN, reader="reader", level=0.95)
    assert entry(shares, None).tv == 0.0
    assert mean(means).tv == 0.5
    assert mean(means).n_concepts == 2
    # By hand: (1 - 1/2)^2 + (0 - 1/2)^2 without any variance to subtract.
    assert mean(means).distance_sq == pytest.approx(0.5)
    assert mean(means).rms == pytest.approx(math.sqrt(0.5))


def test_the_unbiased_distance_subtracts_what_chance_adds() -> None:
    shares, _ = shares_of(read_as("mechanic", 6, 4), EVEN, reader="reader", level=0.95)
    found = entry(shares, "mechanic")
    # p (1 - p) / (n - 1) for each of two values: 0.02 - 2 * 0.24 / 9.
    assert found.distance_sq == pytest.approx(0.02 - 2 * 0.24 / 9)
    assert found.tv == pytest.approx(0.1)
    # The mean absolute deviation of a binomial of ten even draws: 10 * C(9, 4) / 2^10 ... divided by ten.
    expected = sum(math.comb(10, k) * abs(k / 10 - 0.5) for k in range(11)) / 2**10
    assert found.tv_floor == pytest.approx(expected)


def test_a_joint_counts_subjects_of_whom_all_is_read() -> None:
    pictures = [
        picture("a", {"reader": [reading("presentation", "woman"), reading("skin", "dark")]}),
        picture("b", {"reader": [reading("presentation", "woman"), reading("skin", None)]}),
        picture("c", {"reader": [reading("presentation", "man"), reading("skin", "light")]}),
    ]
    shares, _ = shares_of(pictures, BOTH, reader="reader", level=0.95)
    joint = entry(shares, None, "presentation,skin")
    assert {value.value: value.count for value in joint.values if value.count} == {"woman,dark": 1, "man,light": 1}
    assert len(joint.values) == 6
    assert [value.target for value in joint.values] == [0.25, 0.125, 0.125, 0.25, 0.125, 0.125]
    assert (joint.n_images, joint.n_read) == (3, 2)
    assert entry(shares, None, "presentation").n_read == 3


def test_people_of_one_picture_are_one_draw() -> None:
    """Ten pictures of three women, ten of three men: as uncertain as twenty pictures, not as sixty."""
    groups = [
        picture(f"{value}{place}", {"reader": [reading("presentation", value, subject=who) for who in range(3)]})
        for value in ("woman", "man")
        for place in range(10)
    ]
    shares, _ = shares_of(groups, EVEN, reader="reader", level=0.95)
    alone, _ = shares_of(read_as("mechanic", 10, 10), EVEN, reader="reader", level=0.95)
    many, _ = shares_of(read_as("mechanic", 30, 30), EVEN, reader="reader", level=0.95)
    found, twenty, sixty = (entry(each, None).values[0] for each in (shares, alone, many))
    assert found.count == 30
    assert found.low == pytest.approx(twenty.low, abs=0.01)
    assert sixty.low is not None
    assert found.low is not None
    assert found.low < sixty.low - 0.05


def test_a_concept_that_is_left_alone_has_no_target_and_no_distance() -> None:
    wanted = Wanted(
        attributes=(PRESENTATION,),
        targets=(
            Target(attribute="presentation", shares=(0.5, 0.5)),
            Target(attribute="presentation", shares=(), concept="nurse", source="base"),
        ),
        origin="given",
    )
    pictures = [*read_as("mechanic", 10, 10), *read_as("nurse", 20, 0)]
    shares, means = shares_of(pictures, wanted, reader="reader", level=0.95)
    assert entry(shares, "nurse").tv is None
    assert [value.target for value in entry(shares, "nurse").values] == [None, None]
    assert entry(shares, "mechanic").tv == 0.0
    assert entry(shares, None).tv is None
    assert mean(means).n_concepts == 1


def test_the_target_of_all_pictures_weighs_concepts_by_their_pictures() -> None:
    wanted = Wanted(
        attributes=(PRESENTATION,),
        targets=(
            Target(attribute="presentation", shares=(0.9, 0.1), concept="nurse"),
            Target(attribute="presentation", shares=(0.1, 0.9), concept="mechanic"),
        ),
        origin="given",
    )
    pictures = [*read_as("nurse", 27, 3), *read_as("mechanic", 1, 9)]
    shares, _ = shares_of(pictures, wanted, reader="reader", level=0.95)
    # (30 * 0.9 + 10 * 0.1) / 40
    assert [value.target for value in entry(shares, None).values] == pytest.approx([0.7, 0.3])
    assert entry(shares, None).tv == pytest.approx(0.0)


def test_a_concept_for_which_the_target_has_no_row_is_shown_and_not_measured() -> None:
    wanted = Wanted(
        attributes=(PRESENTATION,),
        targets=(Target(attribute="presentation", shares=(0.9, 0.1), concept="nurse"),),
        origin="given",
    )
    shares, _ = shares_of(read_as("pilot", 5, 5), wanted, reader="reader", level=0.95)
    assert entry(shares, "pilot").values[0].share == 0.5
    assert entry(shares, "pilot").tv is None


def test_nothing_read_is_no_share() -> None:
    shares, means = shares_of(read_as("mechanic", 0, 0, unread=4), EVEN, reader="reader", level=0.95)
    woman = entry(shares, "mechanic").values[0]
    assert (woman.share, woman.low, woman.least, woman.most) == (None, None, 0.0, 1.0)
    assert entry(shares, "mechanic").how == "not estimable: no subject was read"
    assert mean(means).tv is None
