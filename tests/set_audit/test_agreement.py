"""What was not read, what was doubtful, and how far two agree; the table is counted by hand, kappa by its formula."""

from __future__ import annotations

import pytest

from evenhand.set_audit.agreement import agreement, reach
from evenhand.set_audit.pictures import LABELS
from tests.set_audit.made import PRESENTATION, picture, reading


def both(key: str, one: str | None, other: str | None) -> object:
    return picture(key, {"a": [reading("presentation", one)], "b": [reading("presentation", other)]})


PAIRS = [("woman", "woman")] * 40 + [("woman", "man")] * 10 + [("man", "woman")] * 5 + [("man", "man")] * 45
PICTURES = [both(f"{place:03d}", *pair) for place, pair in enumerate(PAIRS)]


def test_agreement_and_kappa_are_those_of_the_table() -> None:
    found = agreement(PICTURES, PRESENTATION, "a", "b", level=0.95, named=True)
    assert found.n_subjects == 100
    assert found.share == 0.85
    # Cohen: chance is 0.5 * 0.45 + 0.5 * 0.55.
    assert found.kappa == pytest.approx((0.85 - 0.5) / (1 - 0.5))
    assert found.table == (("woman", "woman", 40), ("woman", "man", 10), ("man", "woman", 5), ("man", "man", 45))
    assert [key for key, _, _ in found.differ] == [f"{place:03d}" for place in range(40, 55)]


def test_what_one_of_them_cannot_read_is_no_disagreement() -> None:
    pictures = [*PICTURES[:40], *(both(f"x{place}", "woman", None) for place in range(10))]
    found = agreement(pictures, PRESENTATION, "a", "b", level=0.95, named=True)
    assert (found.n_subjects, found.share, found.differ) == (40, 1.0, ())


def test_nothing_in_common_is_no_agreement() -> None:
    found = agreement([both("x", "woman", None)], PRESENTATION, "a", "b", level=0.95, named=True)
    assert (found.n_subjects, found.share, found.kappa) == (0, None, None)


def test_real_people_are_never_named_beside_a_reading() -> None:
    pictures = [
        picture(
            "ada.png", {"a": [reading("presentation", "woman", prob=0.6)], LABELS: [reading("presentation", "man")]}
        )
    ]
    found = agreement(pictures, PRESENTATION, "a", LABELS, level=0.95, named=False)
    read = reach(pictures, PRESENTATION, "a", doubt_below=0.75, named=False)
    assert (found.share, found.differ) == (0.0, ())
    assert (read.n_doubtful, read.doubtful) == (1, ())


def test_the_least_sure_readings_come_first_and_sure_ones_not_at_all() -> None:
    pictures = [
        picture(key, {"a": [reading("presentation", "woman", prob=prob)]})
        for key, prob in (("sure", 0.99), ("half", 0.51), ("some", 0.7))
    ]
    found = reach(pictures, PRESENTATION, "a", doubt_below=0.75, named=True)
    assert found.n_doubtful == 2
    assert found.doubtful == (("half", "woman", 0.51), ("some", "woman", 0.7))


def test_unread_pictures_are_counted_by_the_kind_of_reason() -> None:
    pictures = [
        picture("car", {"a": [reading("presentation", None)]}),
        picture("person", {"a": [reading("presentation", "man")]}),
        picture("two", {"a": [reading("presentation", None), reading("presentation", "man", subject=1)]}),
        picture("none", {}),
    ]
    found = reach(pictures, PRESENTATION, "a", doubt_below=0.75, named=True)
    assert (found.n_images, found.n_unread) == (4, 2)
    assert set(found.reasons) == {("no person found", 1), ("not read", 1)}
