"""The page of an audit of a set: one HTML file without network or script, made of ``audit.json`` and small pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import evenhand
from evenhand.analysis.wording import percent
from evenhand.captions.quotas import JOINT
from evenhand.files import atomic_path
from evenhand.report.charts import MAX_ROWS, MAX_VALUES, chance_band, evenly, level_text
from evenhand.report.content import visible
from evenhand.report.figures import NOTHING, number
from evenhand.set_audit.findings import TARGET, percent_text

PAGE_FILE = "audit.html"
TEMPLATES_FOLDER = Path(__file__).with_name("templates")
MAX_TABLE_ROWS = 300
MAX_PICTURES, MAX_GROUPS_SHOWN, MAX_OF_GROUP, MAX_VALUES_SHOWN = 16, 8, 6, 12
BADGES = {"failed": "bad", "look": "warn", "fine": "good", "unknown": "none"}

Json = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A share in a row, in percent of the width; ``kind`` is its colour: 1 whose shares are judged, 0 another's."""

    kind: int
    x: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A value, or a concept, of a plot: who says what, the target, and what is near enough to it."""

    name: str
    marks: tuple[Mark, ...]
    target: float | None
    band: tuple[float, float] | None
    figure: str
    text: str
    missed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Rows under a heading; ``num_left_out`` of them are not drawn."""

    heading: str
    rows: tuple[Row, ...]
    num_left_out: int


def write_set_page(folder: Path, audit: Json, thumbnails: Mapping[str, bytes], *, command: str) -> Path:
    """Write the page beside ``audit.json``; the path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, share=share_text, interval=interval_text, nothing=NOTHING, badges=BADGES)
    page = environment.get_template("set_audit.html").render(page_content(audit, thumbnails, command=command))
    with atomic_path(folder / PAGE_FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE_FILE


def page_content(
    audit: Json, thumbnails: Mapping[str, bytes], *, command: str
) -> dict[str, Any]:  # Any: JSON, and what is made of it
    """What the template is filled with."""
    shown = visible(dict(audit))
    return {
        "audit": shown,
        "answer": answer(shown),
        "pooled": [_pooled_plot(shown, attribute) for attribute in _attributes(shown)],
        "concepts": [plot for attribute in shown["attributes"] for plot in _concept_plots(shown, attribute)],
        "joints": _joint_panels(shown),
        "samples": _samples(audit, thumbnails),
        "doubtful": _doubtful(audit, thumbnails),
        "differing": _differing(audit, thumbnails),
        "again": {
            kind: _groups(audit["duplicates"][kind], thumbnails)
            for kind in ("equal", "near")
            if audit["duplicates"][kind]
        },
        "concept_rows": list(shown["concepts"].items())[:MAX_TABLE_ROWS],
        "max_rows": MAX_TABLE_ROWS,
        "level": level_text(shown["settings"]["level"]),
        "margin": percent(shown["settings"]["margin"]),
        "judged": "the set's own labels" if shown["by"] == "labels" else shown["by"],
        "other": _other(shown),
        "aims": {attribute: _aim(shown, attribute) for attribute in _attributes(shown)},
        "command": visible(command),
        "version": evenhand.__version__,
    }


def share_text(value: float | None) -> str:
    """A share as this page prints it."""
    return NOTHING if value is None else percent_text(value).replace(" ", "\u00a0")


def interval_text(low: float | None, high: float | None) -> str:
    """An interval of a share."""
    return "no interval" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _plain(value: float | None) -> str:
    return NOTHING if value is None else percent_text(value)


def answer(audit: Json) -> str:
    """The audit in a few sentences."""
    by = "counted from the set's own labels" if audit["by"] == "labels" else f"read by {audit['by']}"
    skipped = f"; {audit['n_skipped']} files could not be used" if audit["n_skipped"] else ""
    of = f" of {len(audit['concepts'])} concepts" if audit["concepts"] else ""
    parts = [f"{audit['n_images']} pictures{of}, {by}{skipped}."]
    for attribute in audit["attributes"]:
        pooled = _entry(audit, attribute, None, audit["by"])
        shares = ", ".join(f"{_plain(each['share'])} {each['value']}" for each in pooled["values"])
        parts.append(f"Perceived {attribute}: {shares}.")
    verdicts = [finding for finding in audit["findings"] if finding["about"].startswith(TARGET)]
    failed = [finding for finding in verdicts if finding["level"] == "failed"]
    parts += [f"{finding['about'][0].upper()}{finding['about'][1:]}: {finding['sentence']}" for finding in failed]
    if not failed and verdicts:
        parts.append(_target_sentence(verdicts[0]["sentence"], declared=bool(audit["judged"])))
    return " ".join(parts)


def _target_sentence(sentence: str, *, declared: bool) -> str:
    return f"Target {sentence[0].lower()}{sentence[1:]}" if declared else "No target is declared, so none is judged."


def _attributes(audit: Json) -> list[str]:
    """The attributes, and all of them together where the audit has that."""
    return list(dict.fromkeys(entry["attribute"] for entry in audit["shares"]))


def _aim(audit: Json, attribute: str) -> str:
    """What the shares of an attribute are drawn against."""
    return "target" if set(attribute.split(JOINT)) <= set(audit["judged"]) else "even shares"


def _other(audit: Json) -> str | None:
    """Whose shares are drawn beside those that are judged: the labels', else a second reader's."""
    others = [entry["reader"] for entry in audit["reach"] if entry["reader"] != audit["by"]]
    return "labels" if "labels" in others else others[0] if others else None


def _entry(audit: Json, attribute: str, concept: str | None, reader: str) -> Json:
    return next(
        entry
        for entry in audit["shares"]
        if (entry["attribute"], entry["concept"], entry["reader"]) == (attribute, concept, reader)
    )


def _pooled_plot(audit: Json, attribute: str) -> Plot:
    """A row for each value, or each combination of values, over all pictures."""
    sayers = [name for name in (_other(audit), audit["by"]) if name is not None]
    entries = [_entry(audit, attribute, None, reader) for reader in sayers]
    missed = _missed(audit, attribute)
    rows = [
        _row(audit, values[0]["value"].replace(JOINT, ", "), entries, values, (None, values[0]["value"]) in missed)
        for values in zip(*(entry["values"] for entry in entries), strict=True)
    ]
    drawn = (
        sorted(rows, key=lambda row: -max((mark.x for mark in row.marks), default=0.0)) if JOINT in attribute else rows
    )
    aim = "" if _aim(audit, attribute) == "target" else ", beside even shares"
    heading = f"perceived {attribute.replace(JOINT, ' and ')}, all pictures{aim}"
    return Plot(heading=heading, rows=tuple(drawn[:MAX_ROWS]), num_left_out=max(0, len(rows) - MAX_ROWS))


def _concept_plots(audit: Json, attribute: str) -> list[Plot]:
    """For each value a row for each concept; of two values the second's share is what is left."""
    sayers = [name for name in (_other(audit), audit["by"]) if name is not None]
    by_concept: dict[str, dict[str, Json]] = {}
    for entry in audit["shares"]:
        if entry["attribute"] == attribute and entry["concept"] is not None and entry["reader"] in sayers:
            by_concept.setdefault(entry["concept"], {})[entry["reader"]] = entry
    values = audit["attributes"][attribute]
    missed, plots = _missed(audit, attribute), []
    for place, value in enumerate(values[:1] if len(values) == 2 else values[:MAX_VALUES]):
        ordered = sorted(by_concept, key=lambda name: (_share(by_concept[name][audit["by"]], place), name))
        drawn = evenly(ordered, MAX_ROWS)
        rows = []
        for concept in drawn:
            entries = [by_concept[concept][reader] for reader in sayers if reader in by_concept[concept]]
            off = any((concept, other) in missed for other in (values if len(values) == 2 else [value]))
            rows.append(_row(audit, concept, entries, [entry["values"][place] for entry in entries], off))
        heading = f"share of {value} in perceived {attribute}, by concept"
        plots.append(Plot(heading=heading, rows=tuple(rows), num_left_out=len(ordered) - len(drawn)))
    return [plot for plot in plots if plot.rows]


def _share(entry: Json, place: int) -> float:
    return entry["values"][place]["share"] or 0.0


def _missed(audit: Json, attribute: str) -> set[tuple[str | None, str]]:
    return {
        (miss["concept"], miss["value"])
        for judgement in audit["judgements"]
        if judgement["attribute"] == attribute
        for miss in judgement["misses"]
    }


def _row(audit: Json, name: str, entries: Sequence[Json], values: Sequence[Json], missed: bool) -> Row:
    marks, texts, figure, settings = [], [], NOTHING, audit["settings"]
    for entry, value in zip(entries, values, strict=True):
        if value["share"] is None:
            continue
        judged = entry["reader"] == audit["by"]
        low, high = (value["share"] if end is None else end for end in (value["low"], value["high"]))
        marks.append(Mark(kind=int(judged), x=_x(value["share"]), low=_x(low), high=_x(high)))
        texts.append(
            f"{entry['reader']} {share_text(value['share'])} ({interval_text(value['low'], value['high'])}), "
            f"{entry['n_read']} of {entry['n_images']} pictures read"
        )
        figure = share_text(value["share"]) if judged else figure
    target = values[-1]["target"]
    count = entries[-1]["n_read"]
    band = None
    if target is not None and settings["claim"] == "set":
        band = (_x(target - settings["margin"]), _x(target + settings["margin"]))
    elif target is not None and count:
        band = chance_band(target, count, settings["level"])
    aim = "" if target is None else f"; target {share_text(target)}"
    return Row(
        name=name,
        marks=tuple(marks),
        target=None if target is None else _x(target),
        band=band,
        figure=figure,
        text=f"{name}: {'; '.join(texts) or 'not read'}{aim}",
        missed=missed,
    )


def _x(share: float) -> float:
    return round(100 * min(1.0, max(0.0, share)), 2)


def _joint_panels(audit: Json) -> list[dict[str, Any]]:  # Any: what the template takes
    """The joint distribution as a table: the first attribute's values down, all others' combinations across."""
    panels = []
    for attribute in _attributes(audit):
        if JOINT not in attribute:
            continue
        pooled = _entry(audit, attribute, None, audit["by"])
        cells = {value["value"]: value for value in pooled["values"]}
        first = audit["attributes"][attribute.partition(JOINT)[0]]
        columns = list(dict.fromkeys(name.partition(JOINT)[2] for name in cells))
        rows = [(name, [cells[f"{name}{JOINT}{column}"] for column in columns]) for name in first]
        panels.append({"attribute": attribute.replace(JOINT, " and "), "columns": columns, "rows": rows})
    return panels


def _samples(audit: Json, thumbnails: Mapping[str, bytes]) -> list[tuple[str, list[dict[str, str]]]]:
    """Some pictures of each value as whose shares are judged says, so that it can be checked by eye."""
    found = []
    for entry in audit["reach"]:
        if entry["reader"] == audit["by"]:
            for value, keys in entry["examples"]:
                rows = [{"key": key, "said": ""} for key in keys]
                found.append((f"{entry['attribute']}: {value}", _pictures(rows, thumbnails)))
    return [(heading, pictures) for heading, pictures in found if pictures][:MAX_VALUES_SHOWN]


def _doubtful(audit: Json, thumbnails: Mapping[str, bytes]) -> list[dict[str, str]]:
    """The least sure readings of whose shares are judged, as pictures."""
    rows = [
        {"key": key, "said": f"{value} {probability:.2f}"}
        for entry in audit["reach"]
        if entry["reader"] == audit["by"]
        for key, value, probability in entry["doubtful"]
    ]
    return _pictures(rows, thumbnails)


def _differing(audit: Json, thumbnails: Mapping[str, bytes]) -> list[dict[str, str]]:
    rows = [
        {"key": key, "said": f"{one}, not {two} ({entry['other']})"}
        for entry in audit["agreement"]
        for key, one, two in entry["differ"]
    ]
    return _pictures(rows, thumbnails)


def _pictures(rows: Sequence[Mapping[str, str]], thumbnails: Mapping[str, bytes]) -> list[dict[str, str]]:
    found = [
        {"key": visible(row["key"]), "said": visible(row["said"]), "uri": _uri(thumbnails[row["key"]])}
        for row in rows
        if row["key"] in thumbnails
    ]
    return found[:MAX_PICTURES]


def _groups(groups: Json, thumbnails: Mapping[str, bytes]) -> list[list[dict[str, str]]]:
    """The largest groups of pictures that come more than once, a few pictures of each."""
    shown = []
    for group in groups["groups"][:MAX_GROUPS_SHOWN]:
        rows = [{"key": key, "said": ""} for key in group["keys"][:MAX_OF_GROUP]]
        pictures = _pictures(rows, thumbnails)
        if pictures:
            shown.append(pictures)
    return shown


def _uri(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
