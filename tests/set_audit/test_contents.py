"""What a set is made of, counted by hand."""

from __future__ import annotations

from evenhand.set_audit.contents import contents, duplicates, skipped_rows
from evenhand.sources.records import Skipped
from tests.set_audit.made import picture


def made(key: str, sha256: str, phash: int, concept: str = "mechanic", **more: object) -> object:
    return picture(key, {}, concept=concept, sha256=sha256, phash=phash, **more)


def test_equal_files_count_once_among_near_duplicates() -> None:
    pictures = [
        made("a", "1", 0b0000),
        made("b", "1", 0b0000, concept="nurse"),
        made("c", "2", 0b0011),
        made("d", "3", (1 << 64) - 1),
    ]
    found = duplicates(pictures, near_distance=2)
    assert found["equal"]["groups"] == [{"size": 2, "keys": ["a", "b"]}]
    assert found["equal"]["n_of_several_concepts"] == 1
    assert found["near"]["groups"] == [{"size": 2, "keys": ["a", "c"]}]
    assert (found["near"]["n_surplus"], found["near"]["n_of_several_concepts"]) == (1, 0)
    assert duplicates(pictures, near_distance=1)["near"]["n_groups"] == 0


def test_licences_are_counted_and_a_missing_one_is_the_sources() -> None:
    pictures = [made("a", "1", 0), made("b", "2", 1, license=None), made("c", "3", 2, license=None, side_px=8)]
    found = contents(pictures, license_of_all="CC-BY-4.0")
    assert found["licenses"] == {"CC-BY-4.0": 2, "CC0-1.0": 1}
    assert contents(pictures, license_of_all="")["licenses"] == {"none given": 2, "CC0-1.0": 1}
    assert found["concepts"] == {"mechanic": 3}
    assert found["shorter_side_px"] == {"least": 8, "median": 64, "most": 64}


def test_what_was_left_out_is_counted_by_kind() -> None:
    skipped = [Skipped(key="a", reason="too small (1x1 px, less than 16)"), Skipped(key="b", reason="truncated")]
    rows = skipped_rows([*skipped, Skipped(key="c", reason="too small (2x2 px, less than 16)")])
    assert [(row["reason"], row["number"]) for row in rows] == [("too small", 2), ("truncated", 1)]
    assert rows[0]["examples"][1] == {"key": "c", "reason": "too small (2x2 px, less than 16)"}
