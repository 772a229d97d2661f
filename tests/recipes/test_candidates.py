from __future__ import annotations

from pathlib import Path

from evenhand.recipes.candidates import Candidate, Index, without_duplicates


def candidate(key: str, **changes: object) -> Candidate:
    given: dict[str, object] = {"sha256": key, "phash": hash(key) % 2**64, "concept": "c", "labels": {"a": "b"}}
    return Candidate(source="s", key=key, **{**given, **changes})  # type: ignore[arg-type]  # a test's own fields


def test_the_index_gives_back_what_it_was_given_in_one_order(tmp_path: Path) -> None:
    found = [candidate(f"{number:02d}", phash=2**64 - 1 - number, notes=("CMYK converted",)) for number in range(9)]
    found.append(candidate("99", skipped="truncated", sha256="", labels={}))
    alone, first, second = Index(tmp_path / "a", rank=0), Index(tmp_path / "b", rank=0), Index(tmp_path / "b", rank=1)
    for block in (found[:5], found[5:]):
        alone.append(block)
    second.append(found[5:])
    first.append(found[:5])
    assert alone.read() == first.read() == second.read() == found


def test_a_torn_block_is_no_block(tmp_path: Path) -> None:
    """Its pictures are looked at again, and stand in the index once."""
    index = Index(tmp_path, rank=0)
    index.append([candidate("0"), candidate("1")])
    (path,) = (tmp_path / "candidates").iterdir()
    with path.open("a") as file:
        file.write('{"block": [{"source": "s", "key": "2"')
    assert [each.key for each in index.read()] == ["0", "1"]
    index.append([candidate("2")])
    assert [each.key for each in index.read()] == ["0", "1", "2"]


def test_an_index_is_finished_when_it_says_so(tmp_path: Path) -> None:
    index = Index(tmp_path, rank=1)
    assert not index.finished()
    assert index.read() == []
    Index(tmp_path, rank=0).finish(0)
    assert index.finished()
    assert index.read() == []


def test_of_equal_and_of_like_pictures_the_first_stays() -> None:
    far = 0xFFFF0000FFFF0000
    found = [
        candidate("a", sha256="1", phash=0),
        candidate("b", sha256="1", phash=0),
        candidate("c", sha256="2", phash=0b1011),  # three bits
        candidate("d", sha256="3", phash=far),
        candidate("e", sha256="1", phash=0, skipped="truncated"),
    ]
    assert [each.skipped for each in without_duplicates(found, near_distance=None)] == [
        None,
        "duplicate (of a)",
        None,
        None,
        "truncated",
    ]
    near = [each.skipped for each in without_duplicates(found, near_distance=3)]
    assert near == [None, "duplicate (of a)", "near duplicate (of a)", None, "truncated"]
    assert [each.skipped for each in without_duplicates(found, near_distance=2)][2] is None
