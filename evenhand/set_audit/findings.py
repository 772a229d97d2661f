"""What a reader of the audit should look at first: one sentence for each thing that was looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evenhand.set_audit.agreement import Agreement, Reach
from evenhand.set_audit.judging import FAILED, HELD, Judgement, Miss
from evenhand.set_audit.pictures import LABELS

TARGET = "target"  # how findings about targets begin
MOST_SHOWN = 5
LOW_AGREEMENT = 0.9  # below, the readers themselves are part of the finding

Level = Literal["failed", "look", "fine", "unknown"]
Json = Mapping[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``failed`` is a target that the set misses, ``look`` is for a person to judge, ``unknown`` could not be said."""

    about: str
    level: Level
    sentence: str


def findings(
    *,
    judgements: Sequence[Judgement],
    origin: str | None,
    reaches: Sequence[Reach],
    agreements: Sequence[Agreement],
    captions: Json,
    duplicates: Json,
    skipped: Sequence[Json],
    licenses: Mapping[str, int],
    absent: Sequence[str],
    max_unread: float,
) -> list[Finding]:
    """Everything that was looked for, in the order of its weight."""
    found = [
        *_targets(judgements, origin),
        *([_absent(absent)] if absent else []),
        *(_reach(each, max_unread) for each in reaches),
        *(_agreement(each) for each in agreements if each.n_subjects),
        *_captions(captions),
        _again("equal files", duplicates["equal"], "has the same bytes as another"),
        *([_again("near duplicates", duplicates["near"], "looks like another")] if duplicates["near"] else []),
        _skipped(skipped),
        _licenses(licenses),
    ]
    order = {"failed": 0, "look": 1, "unknown": 2, "fine": 3}
    return sorted(found, key=lambda finding: order[finding.level])


def _targets(judgements: Sequence[Judgement], origin: str | None) -> list[Finding]:
    if origin is None:
        sentence = "None is declared, so the shares are shown, not judged."
        return [Finding(about=TARGET, level="unknown", sentence=sentence)]
    return [_target(judgement, origin) for judgement in judgements]


def _absent(concepts: Sequence[str]) -> Finding:
    shown = ", ".join(concepts[:MOST_SHOWN]) + (", ..." if len(concepts) > MOST_SHOWN else "")
    sentence = f"The target has rows for {_many(len(concepts), 'concept')} of which there is no picture: {shown}."
    return Finding(about="concepts without pictures", level="look", sentence=sentence)


def _target(judgement: Judgement, origin: str) -> Finding:
    about = f"{TARGET} of {judgement.attribute.replace(',', ' and ')}"
    if judgement.state == HELD:
        return Finding(about=about, level="fine", sentence=f"Held: {judgement.why}. The target is {origin}.")
    if judgement.state != FAILED:
        return Finding(
            about=about, level="unknown", sentence=f"Cannot be judged: {judgement.why}. The target is {origin}."
        )
    worst = max(judgement.misses, key=lambda miss: (miss.concept is None, abs(miss.share - miss.target)))
    count = len({miss.concept for miss in judgement.misses if miss.concept is not None})
    concepts = f"; {_many(count, 'concept')} by {'itself' if count == 1 else 'themselves'}" if count else ""
    farthest = _miss(worst, labels=judgement.reader == LABELS)
    return Finding(about=about, level="failed", sentence=f"Missed. {farthest}{concepts}. The target is {origin}.")


def _miss(miss: Miss, *, labels: bool) -> str:
    where = "All pictures" if miss.concept is None else f"Farthest off is {miss.concept}"
    value = miss.value.replace(",", " and ")
    read = "counted" if labels else "read"
    return (
        f"{where}: {percent_text(miss.share)} {value}, wanted {percent_text(miss.target)} "
        f"({_many(miss.n_images, 'picture')} {read})"
    )


def percent_text(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _reach(reach: Reach, max_unread: float) -> Finding:
    about = f"{'labels' if reach.reader == LABELS else 'readings'} of {reach.attribute}"
    unread = f"{reach.n_unread} of {reach.n_images} pictures have none by {reach.reader}"
    if not reach.n_unread:
        unread = f"All {reach.n_images} pictures have one by {reach.reader}"
    if reach.reasons:
        unread += f" (mostly: {reach.reasons[0][0]})"
    doubt = f", {reach.n_doubtful} have a doubtful one" if reach.n_doubtful else ""
    much = reach.n_unread > max_unread * reach.n_images
    level: Level = "look" if much or reach.n_doubtful > max_unread * reach.n_images else "fine"
    return Finding(about=about, level=level, sentence=f"{unread}{doubt}.")


def _agreement(entry: Agreement) -> Finding:
    other = "the set's own labels" if entry.other == LABELS else entry.other
    share = entry.share or 0.0
    sentence = (
        f"{entry.reader} and {other} agree on {percent_text(share)} of the {entry.n_subjects} subjects that both read"
        + ("" if entry.kappa is None else f" (kappa {entry.kappa:.2f})")
    )
    return Finding(
        about=f"agreement on {entry.attribute}",
        level="fine" if share >= LOW_AGREEMENT else "look",
        sentence=f"{sentence}.",
    )


def _captions(captions: Json) -> list[Finding]:
    if not captions["n_captions"] and not captions["unusable"]:
        return [Finding(about="captions", level="unknown", sentence="The pictures have none, so none was checked.")]
    words, leaks, grammar = captions["attribute_words"], captions["leaks"], captions["grammar"]
    named = ", ".join(f"{row['value']} in {row['n_images']}" for row in words)
    found = [
        Finding(
            about="captions that name a value",
            level="look" if words else "fine",
            sentence=f"Pictures whose caption names it: {named}." if words else "No caption names a value.",
        ),
        Finding(
            about="grammar of captions",
            level="look" if grammar["n_captions"] else "fine",
            sentence=f"{grammar['n_captions']} of {captions['n_different']} different captions have a mistake.",
        ),
    ]
    if leaks is not None:
        hold = f"Captions of {_many(leaks['n_images'], 'picture')} hold what suite {captions['against']} calls unseen."
        sentence = hold if leaks["n_images"] else f"No caption holds what suite {captions['against']} calls unseen."
        found.append(Finding(about="leaks", level="look" if leaks["n_images"] else "fine", sentence=sentence))
    if captions["unusable"]:
        number = sum(row["number"] for row in captions["unusable"])
        reasons = ", ".join(f"{row['number']} {row['reason']}" for row in captions["unusable"])
        found.append(Finding(about="captions that cannot be used", level="look", sentence=f"{number}: {reasons}."))
    return found


def _again(about: str, groups: Json, what: str) -> Finding:
    count = groups["n_surplus"]
    crossing = groups["n_of_several_concepts"]
    across = f"; {_many(crossing, 'group')} of them across concepts" if crossing else ""
    sentence = f"{_many(count, 'picture')} could go: each {what}{across}." if count else f"No picture {what}."
    return Finding(about=about, level="look" if count else "fine", sentence=sentence)


def _skipped(rows: Sequence[Json]) -> Finding:
    number = sum(row["number"] for row in rows)
    reasons = ", ".join(f"{row['number']} {row['reason']}" for row in rows)
    return Finding(
        about="files that cannot be used",
        level="look" if number else "fine",
        sentence=f"{number} left out: {reasons}." if number else "Every file could be used.",
    )


def _licenses(licenses: Mapping[str, int]) -> Finding:
    named = ", ".join(f"{name} ({count})" for name, count in licenses.items())
    missing = not licenses or any(name in ("none given", "unknown") for name in licenses)
    return Finding(about="licences", level="look" if missing else "fine", sentence=f"{named or 'none'}.")
