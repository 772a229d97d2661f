"""When a target is called missed, kept, or neither; the bounds are counted by hand."""

from __future__ import annotations

import pytest

from evenhand.records import Target
from evenhand.set_audit.judging import Judgement, judge
from evenhand.set_audit.pictures import LABELS, Picture
from evenhand.set_audit.settings import Claim
from evenhand.set_audit.shares import shares_of
from evenhand.set_audit.wanted import Wanted
from tests.set_audit.made import PRESENTATION, labelled, read_as, settings

EVEN = Wanted(
    attributes=(PRESENTATION,), targets=(Target(attribute="presentation", shares=(0.5, 0.5)),), origin="given"
)


def judged(pictures: list[Picture], claim: Claim = "set", *, reader: str = "reader") -> Judgement:
    shares, _ = shares_of(pictures, EVEN, reader=reader, level=0.95)
    (found,) = judge(shares, settings(claim))
    return found


@pytest.mark.parametrize("claim", ["set", "generator"])
def test_an_even_set_keeps_to_an_even_target(claim: Claim) -> None:
    found = judged([*read_as("mechanic", 2000, 2000), *read_as("nurse", 2000, 2000)], claim)
    assert (found.state, found.misses) == ("held", ())


@pytest.mark.parametrize("claim", ["set", "generator"])
def test_a_set_of_men_misses_it(claim: Claim) -> None:
    found = judged(read_as("mechanic", 100, 900), claim)
    assert found.state == "failed"
    assert {(miss.concept, miss.value) for miss in found.misses} >= {(None, "woman"), (None, "man")}
    assert found.misses[0].share == 0.1
    assert found.misses[0].target == 0.5


@pytest.mark.parametrize("claim", ["set", "generator"])
def test_concepts_that_cancel_are_found_one_by_one(claim: Claim) -> None:
    found = judged([*read_as("mechanic", 10, 90), *read_as("nurse", 90, 10)], claim)
    assert found.state == "failed"
    assert {miss.concept for miss in found.misses} == {"mechanic", "nurse"}


def test_labels_are_counted_to_the_picture() -> None:
    """Of 20 pictures the margin of 3 points is less than one picture, so one may be too many, and two may not."""
    assert judged(labelled("mechanic", 11, 9), reader=LABELS).state == "held"
    assert judged(labelled("mechanic", 12, 8), reader=LABELS).state == "failed"


def test_what_a_reader_says_of_few_pictures_may_be_its_error() -> None:
    found = judged(read_as("mechanic", 12, 8))
    assert found.state == "unknown"
    assert "too few pictures" in found.why


def test_six_of_ten_draws_say_nothing_of_a_generator_and_six_hundred_of_a_thousand_do() -> None:
    assert judged(read_as(None, 6, 4), "generator").state == "unknown"
    assert judged(read_as(None, 5, 5), "generator").state == "unknown"
    # Wilson: 0.600 with 0.569 to 0.630, clear of 0.53.
    assert judged(read_as(None, 600, 400), "generator").state == "failed"
    # 0.550 with 0.519 to 0.581 is off by chance alone or not, but within the margin at one end.
    assert judged(read_as(None, 550, 450), "generator").state == "unknown"


def test_pictures_that_nobody_could_read_decide_nothing() -> None:
    """All 50 read ones show men; with 100 unread ones the share of women may be anything up to two thirds."""
    found = judged(read_as("mechanic", 0, 50, unread=100))
    assert found.state == "unknown"
    assert "100 of 150 pictures have no reading" in found.why
    # With 10 unread ones it can be a sixth at most.
    assert judged(read_as("mechanic", 0, 50, unread=10)).state == "failed"


def test_a_few_misread_pictures_of_a_concept_with_unread_ones_miss_no_target() -> None:
    """14 of 24 at least are women, 58 %, which is beyond the margin; but chance, and the reader, may make it 50 %."""
    assert judged(read_as("mechanic", 14, 6, unread=4)).state == "unknown"
    # 20 of 24 at least: Wilson's interval at the level of two tests begins at 0.60.
    assert judged(read_as("mechanic", 20, 0, unread=4)).state == "failed"


def test_pictures_without_any_target_are_not_judged() -> None:
    wanted = Wanted(
        attributes=(PRESENTATION,),
        targets=(Target(attribute="presentation", shares=(0.9, 0.1), concept="nurse"),),
        origin="given",
    )
    shares, _ = shares_of(read_as("pilot", 5, 5), wanted, reader="reader", level=0.95)
    (found,) = judge(shares, settings())
    assert (found.state, found.why) == ("unknown", "no picture of a concept with a target")


def test_many_fair_concepts_are_not_called_unfair() -> None:
    """Forty concepts of sixteen pictures from fair coins: without a correction two would fall outside of 95 %."""
    import numpy as np

    women = np.random.default_rng(0).binomial(16, 0.5, size=40)
    pictures = [each for place, count in enumerate(women) for each in read_as(f"c{place}", int(count), 16 - int(count))]
    assert [miss.concept for miss in judged(pictures, "generator").misses] == []
