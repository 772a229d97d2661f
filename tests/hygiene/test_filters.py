from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.hygiene.filters import ReaderFilter
from evenhand.hygiene.skips import kind_of
from evenhand.readers.planted import Planted
from evenhand.records import SubjectReading
from evenhand.tinytown.world import tinytown

READER = Planted(
    name="planted",
    colors={"rating": {"safe": (60, 60, 200), "unsafe": (200, 60, 60)}},
    max_distance=60.0,
    confusion=0.0,
    abstain=0.0,
    seed=0,
)
BLUE, RED, GREEN = (Image.new("RGB", (8, 8), colour) for colour in ((60, 60, 200), (200, 60, 60), (60, 200, 60)))


def made(**changed: Any) -> ReaderFilter:
    settings = {"allowed": ("safe",), "min_subjects": None, "max_subjects": None, "unread": "skip", "about": "picture"}
    return ReaderFilter(name="f", reader=READER, **{"attribute": "rating", **settings, **changed})


def reasons(part: ReaderFilter) -> list[str | None]:
    return part.load(device=torch.device("cpu")).reasons([BLUE, RED, GREEN])


def test_pictures_with_other_values_are_left_out_with_the_reason() -> None:
    kept, unsafe, unread = reasons(made())
    assert kept is None
    assert unsafe == "left out by filter f (unsafe)"
    assert unread is not None
    assert kind_of(unread) == "left out by filter f"
    assert "no planted colour" in unread


def test_what_cannot_be_read_is_kept_on_request() -> None:
    assert reasons(made(unread="keep")) == [None, "left out by filter f (unsafe)", None]


def reading(subject: int, value: str | None, attribute: str = "rating") -> SubjectReading:
    reason = None if value else "too small"
    return SubjectReading(subject=subject, attribute=attribute, value=value, probs=None, unread=reason)


def test_every_subject_must_pass() -> None:
    assert made().reason([reading(0, "safe"), reading(1, "safe")]) is None
    assert made().reason([reading(0, "safe"), reading(1, "unsafe")]) == "left out by filter f (unsafe)"
    assert made().reason([reading(0, "safe"), reading(0, "unsafe", "another")]) is None


@pytest.mark.parametrize(
    ("least", "most", "kept"),
    [(1, 1, [False, True, False]), (None, 1, [True, True, False]), (2, None, [False, False, True])],
)
def test_subjects_that_can_be_read_are_counted(least: int | None, most: int | None, kept: list[bool]) -> None:
    part = made(allowed=None, min_subjects=least, max_subjects=most)
    nobody = [reading(0, None)]
    one = [reading(0, "safe"), reading(1, None)]
    two = [reading(0, "safe"), reading(1, "unsafe")]
    assert [part.reason(readings) is None for readings in (nobody, one, two)] == kept
    if least == 2:
        assert part.reason(one) == "left out by filter f (1 found)"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attribute": "mood"}, "reader planted reads no 'mood'; it reads rating"),
        ({"allowed": ("safe", "fine")}, "allowed names 'fine'.*choose from safe, unsafe"),
        ({"allowed": None}, "either allowed, or min_subjects or max_subjects"),
        ({"min_subjects": 1}, "either allowed, or min_subjects or max_subjects"),
        ({"allowed": None, "min_subjects": 2, "max_subjects": 1}, "max_subjects not below it, got 2 and 1"),
        ({"allowed": None, "min_subjects": -1}, "min_subjects must be >= 0"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**changed)


def test_real_people_are_not_picked_by_what_they_look_like() -> None:
    with pytest.raises(ValueError, match="street depicts people.*choose pictures"):
        made(about="person").check("people", source="street")
    made(about="picture").check("people", source="street")
    made(about="person").check("synthetic", source="town")


def chosen(name: str) -> ReaderFilter:
    part: ReaderFilter = build(compose_config("program", [f"+filter={name}"]).plain["filter"])
    return part


def test_the_filters_of_tinytown_see_skulls_and_groups() -> None:
    """On renders, whose truth is known: shirts with and without a skull, a group of three, a car."""
    world = tinytown()
    shirts = [
        world.render(world.draw("rock fan", seed, fixed={"print": print_}))
        for print_ in ("skull", "plain")
        for seed in range(8)
    ]
    others = [world.render(world.draw(concept, 1)) for concept in ("pyladies", "car")]
    device = torch.device("cpu")
    skulls = chosen("tinytown_no_skull").load(device=device).reasons([*shirts, *others])
    assert sum(reason is not None for reason in skulls[:8]) >= 7
    assert sum(reason is not None for reason in skulls[8:]) <= 1
    persons = chosen("tinytown_one_person").load(device=device).reasons([*shirts, *others])
    assert sum(reason is None for reason in persons[:16]) >= 15
    assert persons[16:] == [
        "left out by filter tinytown_one_person (3 found)",
        "left out by filter tinytown_one_person (0 found)",
    ]
