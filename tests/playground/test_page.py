"""The pairs as HTML: all is escaped, counts are those of the readings, what is unread is not dropped."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from evenhand.playground.page import pairs_html, problem_html
from evenhand.playground.pairs import Pair, Seen
from evenhand.records import SubjectReading

ATTACK = '<script>alert("1")</script><img src=x onerror=alert(1)> ${1+1} {{x}} & \'"'


class Elements(HTMLParser):
    """The elements, their attributes and the text of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags[-1][0] in ("td", "th"):
            self.cells[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def reading(attribute: str, value: str | None, *, subject: int = 0, unread: str = "too small") -> SubjectReading:
    return SubjectReading(
        subject=subject,
        attribute=attribute,
        value=value,
        probs=None if value is None else (0.25, 0.75),
        unread=unread if value is None else None,
    )


def seen(*readings: SubjectReading, reader: str = "judge", side_px: int = 64, grey: int = 9) -> Seen:
    image = Image.fromarray(np.full((side_px, side_px, 3), grey, dtype=np.uint8))
    return Seen(image=image, noise_sha256="ab" * 32, readings={reader: readings})


def pair(base: Seen, adapted: Seen, *, seed: int = 0, prompt: str = "a mechanic") -> Pair:
    return Pair(prompt=prompt, seed=seed, base=base, adapted=adapted)


def page_of(*pairs: Pair, num_asked: int | None = None) -> Elements:
    asked = len(pairs) if num_asked is None else num_asked
    return Elements(pairs_html(pairs, base_name="tiny", weights={"even": 0.5, "off": 0.0}, num_asked=asked))


def test_text_from_anywhere_is_text() -> None:
    """Prompt, names of base, adapters and readers, values and reasons."""
    strange = seen(reading(ATTACK, ATTACK), reading("b", None, unread=ATTACK), reader=ATTACK)
    page = Elements(
        pairs_html([pair(strange, strange, prompt=ATTACK)], base_name=ATTACK, weights={ATTACK: 1.0}, num_asked=1)
    )
    plain = page_of(pair(*[seen(reading("a", "v"), reading("b", None), reader="r")] * 2))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.text.count(ATTACK) >= 8
    assert {key for _, attributes in page.tags for key in attributes} <= {"class", "src", "alt", "scope"}
    assert ATTACK in Elements(problem_html(ATTACK)).text
    assert [tag for tag, _ in Elements(problem_html(ATTACK)).tags] == ["style", "p"]


def test_an_attack_without_escaping_is_found() -> None:
    """Control of the parser above."""
    assert [tag for tag, _ in Elements(f"<p>{ATTACK}</p>").tags] == ["p", "script", "img"]


def test_counts_are_those_of_the_readings() -> None:
    """Counted by hand: the base has two men, a woman and one unread; adapted there are two of each."""
    values = [("man", "man"), ("man", "woman"), ("woman", "woman"), (None, "man")]
    pairs = [
        pair(seen(reading("presentation", one)), seen(reading("presentation", other)), seed=seed)
        for seed, (one, other) in enumerate(values)
    ]
    page = page_of(*pairs)
    assert page.cells[:3] == ["read in 4 images each", "base", "adapted"]
    assert page.cells[3:6] == ["presentation (judge)", "man 2, woman 1, unread 1", "man 2, woman 2"]
    assert "no share can be told from them" in page.text


def test_a_change_is_told_in_words() -> None:
    changed = page_of(pair(seen(reading("presentation", "man")), seen(reading("presentation", "woman"))))
    same = page_of(pair(seen(reading("presentation", "man")), seen(reading("presentation", "man"))))
    assert changed.cells[-3:] == ["presentation", "man (75%)", "woman (75%), changed"]
    assert same.cells[-3:] == ["presentation", "man (75%)", "man (75%)"]


def test_what_is_read_on_one_side_only_stands_with_the_reason() -> None:
    page = page_of(pair(seen(reading("presentation", "man")), seen(reading("presentation", None))))
    assert page.cells[-3:] == ["presentation", "man (75%)", "unread: too small, changed"]


def test_what_is_read_on_neither_side_is_named_below() -> None:
    page = page_of(pair(seen(reading("season", None)), seen(reading("season", None))))
    assert "Not read by judge: season (too small)" in page.text
    assert page.cells == []


def test_several_people_are_told_apart() -> None:
    people = [reading("presentation", "man"), reading("presentation", "woman", subject=1)]
    page = page_of(pair(seen(*people), seen(people[0])))
    assert page.cells[-6:] == [
        *("presentation of 1", "man (75%)", "man (75%)"),
        *("presentation of 2", "woman (75%)", "no such subject, changed"),
    ]


def test_images_are_the_ones_that_were_made_and_have_names() -> None:
    page = page_of(pair(seen(grey=7), seen(grey=200), seed=5))
    images = page.of("img")
    assert [image["alt"] for image in images] == ["tiny, seed 5: a mechanic", "even × 0.5, seed 5: a mechanic"]
    shown = [Image.open(io.BytesIO(base64.b64decode(str(image["src"]).split(",")[1]))) for image in images]
    assert [np.unique(np.asarray(image)).tolist() for image in shown] == [[7], [200]]


def test_small_images_are_shown_sharp_and_large_ones_smooth() -> None:
    assert [image["class"] for image in page_of(pair(seen(), seen(side_px=512))).of("img")] == ["sharp", "smooth"]


def test_while_pairs_are_made_it_says_how_many_there_are() -> None:
    one = pair(seen(), seen())
    assert "1 of 4 pairs" in page_of(one, num_asked=4).text
    assert "of 4 pairs" not in page_of(one, one, one, one, num_asked=4).text
    assert "Making the first of 4 pairs" in page_of(num_asked=4).text
