from __future__ import annotations

import unicodedata

import pytest

from evenhand.hygiene.images import Refused
from evenhand.hygiene.texts import check_caption


@pytest.mark.parametrize(
    "text",
    [
        "a portrait of a mechanic",
        "ein Porträt einer Ärztin",
        "صورة لميكانيكي في ورشته",
        "תמונה של מכונאית",
        "می‌خواهم",  # with a zero-width non-joiner, as Persian is written
        "a doctor 👩🏽‍⚕️ at work 🎉",  # a sequence with joiners and a skin tone
        "一位厨师",
        "a < b, I <3 cooks & bakers; 5 > 4",
    ],
)
def test_a_caption_of_any_script_stays_as_it_is(text: str) -> None:
    assert check_caption(text, max_characters=100) == text


def test_spaces_and_accents_are_made_plain() -> None:
    apart = unicodedata.normalize("NFD", "Ärztin")
    assert apart != "Ärztin"
    assert (
        check_caption(f"\ufeff  a\tportrait \n of an {apart}\u00a0 ", max_characters=100) == "a portrait of an Ärztin"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no caption"),
        (float("nan"), "caption is no text (float)"),
        (["a"], "caption is no text (list)"),
        ("", "empty caption"),
        (" \n\u00a0\u3000", "empty caption"),
        ("\ufeff", "empty caption"),
        ("a" * 101, "caption too long (101 characters, more than 100)"),
        ("a\0b", "control character in the caption (U+0000)"),
        ("a\x1b[31mb", "control character in the caption (U+001B)"),
        ("a\ud800b", "half a character in the caption (U+D800)"),
        ("a portrait\u202egnp.exe", "hidden change of direction in the caption (U+202E)"),
        ("a\u2067b\u2069", "hidden change of direction in the caption (U+2067)"),
        ("caf\ufffd", "caption was decoded wrongly (U+FFFD)"),
        ("<b>a cook</b>", "markup in the caption (<b>)"),
        ("a <script src=x> b", "markup in the caption (<script src=x>)"),
        ("a cook<!-- x", None),
        ("salt &amp; pepper", "markup in the caption (&amp;)"),
        ("salt &#38; pepper", "markup in the caption (&#38;)"),
    ],
)
def test_what_is_no_caption_is_refused_with_its_reason(text: object, reason: str | None) -> None:
    if reason is None:
        assert check_caption(text, max_characters=100) == text
        return
    with pytest.raises(Refused) as caught:
        check_caption(text, max_characters=100)
    assert caught.value.reason == reason


def test_the_limit_itself_is_allowed() -> None:
    assert check_caption("a" * 100, max_characters=100) == "a" * 100
