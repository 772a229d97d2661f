"""Pairs of images as HTML: both side by side, what is read of them, and the counts. All text in it is escaped."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from evenhand.playground.pairs import Pair, Seen
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    from PIL import Image

SHARP_BELOW_PX = 256  # a browser would blur an image that is shown much larger than it is
PLACE = tuple[int, str]
# Colours are the page's own (light or dark); a change is told by a word, not by a colour alone. The class named twice
# outweighs what gradio says of tables, which breaks words.
STYLE = """<style>
.pairs{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));margin:0;padding:0}
.pair{border:1px solid var(--border-color-primary,#888);border-radius:.5rem;padding:.75rem;min-width:0}
.pair h3{margin:0 0 .5rem;font-size:1rem}.pair .both{display:grid;grid-template-columns:1fr 1fr;gap:.5rem}
.pair figure{margin:0;min-width:0}.pair img{width:100%;height:auto;display:block;border-radius:.25rem}
.pair img.sharp{image-rendering:pixelated}.pair figcaption{font-size:.85rem;margin-top:.25rem}
.wide{overflow-x:auto;margin:.5rem 0 .75rem}
table.readings.readings{width:100%;border-collapse:collapse;font-size:.85rem;margin:0}
table.readings.readings,table.readings.readings tr{border:0}
table.readings.readings :is(th,td){text-align:left;vertical-align:top;padding:.2rem .4rem .2rem 0;border:0;
overflow-wrap:break-word;word-break:normal;border-bottom:1px solid var(--border-color-primary,#888)}
.asked,.note,.problem,.unread{overflow-wrap:anywhere}.note,.unread{font-size:.85rem}
.problem{border:2px solid currentColor;border-radius:.5rem;padding:.75rem;font-weight:600}
</style>"""
NOTE = (
    "Counts of a few images, to look at: no share can be told from them. evaluate/shift.py measures, with intervals "
    "and guards. What is read of people is how a picture looks to the reader, not who anybody is."
)


def problem_html(message: str) -> str:
    """What a user has to change."""
    return f'{STYLE}<p class="problem" role="alert">{escape(message)}</p>'


def pairs_html(pairs: Sequence[Pair], *, base_name: str, weights: Mapping[str, float], num_asked: int) -> str:
    """The pairs that are made so far of ``num_asked``, their readings, and how often each value was read."""
    if not pairs:
        return f'{STYLE}<p class="note">Making the first of {num_asked} pairs …</p>'
    told = ", ".join(f"{name} × {weight:g}" for name, weight in weights.items() if weight) or "no adapter"
    asked = f"“{pairs[0].prompt}”: {base_name}, and the same with {told}"
    made = f"{len(pairs)} of {num_asked} pairs, each from the same noise." if len(pairs) < num_asked else ""
    cards = "".join(_pair_html(pair, base_name=base_name, told=told) for pair in pairs)
    top = f'<p class="asked">{escape(asked)}. {escape(made)}</p>'
    return f'{STYLE}{top}{_counts_html(pairs)}<div class="pairs">{cards}</div>'


def _pair_html(pair: Pair, *, base_name: str, told: str) -> str:
    figures = _figure_html(pair, pair.base, base_name) + _figure_html(pair, pair.adapted, told)
    tables = "".join(_readings_html(pair, reader) for reader in pair.base.readings)
    title = f"seed {pair.seed}, noise {pair.base.noise_sha256[:8]}"
    return f'<section class="pair"><h3>{escape(title)}</h3><div class="both">{figures}</div>{tables}</section>'


def _figure_html(pair: Pair, seen: Seen, name: str) -> str:
    kind = "sharp" if seen.image.width < SHARP_BELOW_PX else "smooth"
    alt = f"{name}, seed {pair.seed}: {pair.prompt}"
    image = f'<img src="{_data_uri(seen.image)}" class="{kind}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(name)}</figcaption></figure>"


def _readings_html(pair: Pair, reader: str) -> str:
    """What one reader says of both images; what it reads in neither stands below, with the reason."""
    base, adapted = (_by_place(seen, reader) for seen in (pair.base, pair.adapted))
    places = list(dict.fromkeys([*base, *adapted]))
    num_subjects = len({subject for subject, _ in places})
    rows, unread = [], []
    for place in places:
        subject, attribute = place
        name = f"{attribute} of {subject + 1}" if num_subjects > 1 else attribute
        one, other = base.get(place), adapted.get(place)
        if not (_is_read(one) or _is_read(other)):
            unread.append(f"{name} ({_reason(one or other)})")
            continue
        changed = ", changed" if _value(one) != _value(other) else ""
        rows.append((name, _text(one), _text(other) + changed))
    table = _table(("read by " + reader, "base", "adapted"), rows) if rows else ""
    rest = f'<p class="unread">{escape(f"Not read by {reader}: " + "; ".join(unread))}</p>' if unread else ""
    return table + rest


def _counts_html(pairs: Sequence[Pair]) -> str:
    """How often each value was read in the images of each side, and how often none was."""
    rows = []
    for reader in pairs[0].base.readings:
        sides = [
            [reading for pair in pairs for reading in _side(pair, adapted).readings[reader]]
            for adapted in (False, True)
        ]
        attributes = dict.fromkeys(reading.attribute for side in sides for reading in side if _is_read(reading))
        for attribute in attributes:
            cells = [_counted([reading for reading in side if reading.attribute == attribute]) for side in sides]
            rows.append((f"{attribute} ({reader})", *cells))
    if not rows:
        return ""
    head = (f"read in {len(pairs)} image{'s' * (len(pairs) > 1)} each", "base", "adapted")
    return _table(head, rows) + f'<p class="note">{escape(NOTE)}</p>'


def _side(pair: Pair, adapted: bool) -> Seen:
    return pair.adapted if adapted else pair.base


def _counted(readings: Sequence[SubjectReading]) -> str:
    counts = Counter(reading.value for reading in readings if reading.value is not None)
    told = [f"{value} {number}" for value, number in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))]
    num_unread = sum(reading.value is None for reading in readings)
    return ", ".join([*told, *([f"unread {num_unread}"] if num_unread else [])]) or "nobody"


def _by_place(seen: Seen, reader: str) -> dict[PLACE, SubjectReading]:
    return {(reading.subject, reading.attribute): reading for reading in seen.readings[reader]}


def _is_read(reading: SubjectReading | None) -> bool:
    return reading is not None and reading.value is not None


def _value(reading: SubjectReading | None) -> str | None:
    return None if reading is None else reading.value


def _text(reading: SubjectReading | None) -> str:
    """A value with its probability where the reader gives one, or the reason why there is none."""
    if reading is None:
        return "no such subject"
    if reading.value is None:
        return f"unread: {_reason(reading)}"
    return reading.value if reading.probs is None else f"{reading.value} ({max(reading.probs):.0%})"


def _reason(reading: SubjectReading | None) -> str:
    return "no such subject" if reading is None or reading.unread is None else reading.unread


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    table = f'<table class="readings"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
