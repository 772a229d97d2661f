from __future__ import annotations

import pytest

from evenhand.sources.records import Place, SourceItem, check_declared, stream


def places(number: int, opened: list[str]) -> list[Place]:
    def place(key: str) -> Place:
        def read() -> SourceItem:
            opened.append(key)
            return SourceItem(key=key, content=b"x")

        return Place(key, read)

    return [place(str(each)) for each in range(number)]


@pytest.mark.parametrize(("num_ranks", "block"), [(1, 1), (2, 1), (3, 4), (4, 3), (5, 100)])
def test_ranks_share_whole_blocks_and_leave_none_out(num_ranks: int, block: int) -> None:
    """Computed the other way round: the rank of each place from its position."""
    shares = [
        [int(item.key) for item in stream(places(23, []), rank=rank, num_ranks=num_ranks, block=block, only=None)]
        for rank in range(num_ranks)
    ]
    assert sorted(number for share in shares for number in share) == list(range(23))
    for rank, share in enumerate(shares):
        assert {number // block % num_ranks for number in share} <= {rank}
        assert share == sorted(share)


def test_what_is_passed_over_is_not_opened() -> None:
    opened: list[str] = []
    found = list(stream(places(9, opened), rank=0, num_ranks=1, block=1, only=lambda key: key in ("3", "7")))
    assert [item.key for item in found] == opened == ["3", "7"]


def test_places_are_opened_one_by_one_as_they_are_asked_for() -> None:
    opened: list[str] = []
    items = stream(places(9, opened), rank=0, num_ranks=1, block=1, only=None)
    next(items)
    next(items)
    assert opened == ["0", "1"]


def test_a_source_says_its_licence_and_of_people_their_consent() -> None:
    check_declared(name="a", license="cc0-1.0", depicts="other", consent=None)
    with pytest.raises(ValueError, match="source a: license is empty"):
        check_declared(name="a", license=" ", depicts="other", consent=None)
    with pytest.raises(ValueError, match="source a depicts people but names no consent"):
        check_declared(name="a", license="cc0-1.0", depicts="people", consent="")
    check_declared(name="a", license="cc0-1.0", depicts="people", consent="signed release forms, 2025")
    with pytest.raises(ValueError, match="needs a name"):
        check_declared(name="", license="cc0-1.0", depicts="other", consent=None)
