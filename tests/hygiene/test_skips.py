from __future__ import annotations

from evenhand.hygiene.skips import Skips, kind_of


def test_reasons_are_counted_by_kind_with_three_examples() -> None:
    skips = Skips()
    for side in range(1, 6):
        skips.add(f"{side}.png", f"too small ({side}x{side} px, less than 64)")
    skips.add("t.png", "truncated")
    small, cut = skips.rows()
    assert (small["reason"], small["number"]) == ("too small", 5)
    assert [example["key"] for example in small["examples"]] == ["1.png", "2.png", "3.png"]
    assert small["examples"][0]["reason"] == "too small (1x1 px, less than 64)"
    assert cut == {"reason": "truncated", "number": 1, "examples": [{"key": "t.png", "reason": "truncated"}]}


def test_nothing_skipped_is_an_empty_list() -> None:
    assert Skips().rows() == []


def test_brackets_inside_a_reason_belong_to_it() -> None:
    assert kind_of("a (b) c") == "a (b) c"
    assert kind_of("not a picture (its bytes are none of PNG, JPEG)") == "not a picture"
