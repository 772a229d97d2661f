"""Looks at the pictures of sources: can they be used, what do they show, and do readers and source agree on it?"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

from evenhand.captions.check import grammar_problems
from evenhand.hygiene.filters import ReaderFilter
from evenhand.hygiene.images import CheckedImage, ImageLimits, Refused, check_image
from evenhand.hygiene.people import check_reading
from evenhand.hygiene.texts import check_caption
from evenhand.interfaces import Reader
from evenhand.processes import Ranks
from evenhand.recipes.candidates import Candidate, Index
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.records import SubjectReading
from evenhand.sources.records import Skipped, Source, SourceItem

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0

LabelsFrom = Literal["source", "readers", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Whose captions the pictures get: neutral ones of the plan's templates, or their own of the source.

    A caption of the source that names an attribute's value or a held-out concept, or has a mistake of grammar, is not
    changed: its picture is left out.
    """

    origin: Literal["templates", "source"]
    max_characters: int

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise ValueError(f"captions.max_characters must be >= 1, got {self.max_characters}")


class Annotation:
    """What a picture must be, and who says what it shows.

    ``labels_from`` is ``source`` (its columns), ``readers``, or ``both``, and then a picture is used only where every
    reader sees what the source says. Several readers must agree. ``concept_attribute`` is the attribute of the first
    reader whose value is the picture's concept; where the source names one too, they must agree. Null: the source says.
    """

    def __init__(
        self,
        *,
        plan: CuratedPlan,
        readers: Sequence[Reader],
        labels_from: LabelsFrom,
        concept_attribute: str | None,
        filters: Sequence[ReaderFilter],
        captions: Captions,
        limits: ImageLimits,
    ) -> None:
        self.plan = plan
        self.readers = tuple(readers)
        self.labels_from = labels_from
        self.concept_attribute = concept_attribute
        self.filters = tuple(filters)
        self.captions = captions
        self.limits = limits
        self._concepts = {concept.name.casefold(): concept.name for concept in plan.concepts}
        self._check_readers()

    def check(self, sources: Sequence[Source]) -> None:
        """Raise ValueError where a reader would be used on people of a source for more than to measure a set."""
        for source in sources:
            if self.readers:
                check_reading(source.depicts, "label", source=source.name)
            for each in self.filters:
                each.check(source.depicts, source=source.name)

    def _check_readers(self) -> None:
        if self.labels_from == "source" and (self.readers or self.concept_attribute is not None):
            raise ValueError(
                "labels_from=source asks no reader: set recipe.reader=null and recipe.concept_attribute=null, or "
                "recipe.labels_from=both to have readers confirm what the source says"
            )
        if self.labels_from != "source" and not self.readers:
            raise ValueError(f"labels_from={self.labels_from} needs a reader (recipe.reader), or labels_from=source")
        names = [reader.name for reader in self.readers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"reader {twice[0]} is asked twice: second_readers must be other readers than reader")
        wanted = {attribute.name: attribute.values for attribute in self.plan.attributes}
        if self.concept_attribute is not None:
            wanted[self.concept_attribute] = tuple(concept.name for concept in self.plan.concepts)
        for number, reader in enumerate(self.readers):
            for name, values in wanted.items():
                if number > 0 and name == self.concept_attribute:
                    continue
                if name not in reader.attributes:
                    raise ValueError(
                        f"reader {reader.name} does not read {name!r}; it reads {', '.join(reader.attributes)}"
                    )
                unknown = [value for value in values if value not in reader.attributes[name]]
                if unknown:
                    raise ValueError(
                        f"reader {reader.name} knows no {name}={unknown[0]}; "
                        f"it knows {', '.join(reader.attributes[name])}"
                    )

    def text(self, item: SourceItem) -> str | None:
        """The caption that comes with a picture, where captions are the source's; Refused when it cannot be used."""
        if self.captions.origin == "templates":
            return None
        text = check_caption(item.text, max_characters=self.captions.max_characters)
        leaks = self.plan.leaks([text], [])
        if leaks:
            raise Refused(f"caption names {leaks[0].of} ({leaks[0].word})")
        problems = grammar_problems(
            [text], concepts=self.plan.concepts, english=self.plan.language.article == "english"
        )
        if problems:
            raise Refused(f"caption has a mistake ({problems[0].kind}: {problems[0].found})")
        return text

    def concept(self, item: SourceItem, subjects: Sequence[SubjectReading] | None) -> str:
        """The plan's name of what a picture shows; Refused when nobody says it, or it is none of the plan's.

        ``subjects`` are the first reader's, None before it was asked; then ``""`` leaves the concept to it.
        """
        named = None if item.concept is None else self._known(item.concept)
        if self.concept_attribute is None:
            if named is None:
                raise Refused("no concept")
            return named
        if subjects is None:
            return named or ""
        read = self._known(_read(subjects, self.concept_attribute))
        if named not in (None, read):
            raise Refused(f"reader sees another {self.concept_attribute} than the source says ({read}, {named})")
        return read

    def labels(self, item: SourceItem, readings: Sequence[Sequence[SubjectReading]]) -> dict[str, str]:
        """The value of each attribute; Refused when one is not known, or not agreed on. ``readings`` by reader."""
        labels = {}
        for attribute in self.plan.attributes:
            name = attribute.name
            said = []
            if self.labels_from != "readers":
                value = item.labels.get(name)
                if value is None:
                    raise Refused(f"no {name} in the source")
                if value not in attribute.values:
                    raise Refused(f"unknown {name} in the source ({value:.40})")
                said.append(("source", value))
            said += [
                (reader.name, _read(subjects, name)) for reader, subjects in zip(self.readers, readings, strict=True)
            ]
            if len({value for _, value in said}) > 1:
                told = ", ".join(f"{who}: {value}" for who, value in said)
                among = "readers disagree" if self.labels_from == "readers" else "readers and source disagree"
                raise Refused(f"{among} on {name} ({told})")
            labels[name] = said[0][1]
        return labels

    def _known(self, concept: str) -> str:
        name = self._concepts.get(concept.strip().casefold())
        if name is None:
            raise Refused(f"concept is none of the plan's ({concept:.40})")
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A picture that can be used as far as files say, not yet read."""

    item: SourceItem
    image: CheckedImage
    text: str | None


class _Looking:
    """An annotation with its readers and filters on a device, loaded when the first picture is there to be read."""

    def __init__(self, annotation: Annotation, sources: Sequence[Source], *, device: torch.device) -> None:
        self._annotation = annotation
        self._licenses = {source.name: source.license for source in sources}
        self._readers = [reader.load(device=device) for reader in annotation.readers]
        self._filters = [each.load(device=device) for each in annotation.filters]
        self._pool = ThreadPoolExecutor(thread_name_prefix="check")

    def candidates(self, block: Sequence[SourceItem | Skipped], *, source: str) -> list[Candidate]:
        """What becomes of each place of a block."""
        checked = list(self._pool.map(self._checked, block))
        usable = [each for each in checked if isinstance(each, _Checked)]
        images = [each.image.image for each in usable]
        readings = [reader.read(images) if images else [] for reader in self._readers]
        left_out = [each.reasons(images) if images else [] for each in self._filters]
        read = iter(zip(usable, _columns(readings, len(usable)), _columns(left_out, len(usable)), strict=True))
        return [
            self._candidate(*next(read))
            if isinstance(each, _Checked)
            else Candidate(source=source, key=each.key, skipped=each.reason)
            for each in checked
        ]

    def _checked(self, item: SourceItem | Skipped) -> _Checked | Skipped:
        if isinstance(item, Skipped):
            return item
        try:
            self._annotation.concept(item, None)
            text = self._annotation.text(item)
            image = check_image(item.content, self._annotation.limits, name=item.key)
        except Refused as refused:
            return Skipped(key=item.key, reason=refused.reason)
        return _Checked(item=item, image=image, text=text)

    def _candidate(
        self, checked: _Checked, readings: Sequence[Sequence[SubjectReading]], left_out: Sequence[str | None]
    ) -> Candidate:
        item = checked.item
        try:
            for reason in left_out:
                if reason is not None:
                    raise Refused(reason)
            concept = self._annotation.concept(item, readings[0] if readings else None)
            labels = self._annotation.labels(item, readings)
        except Refused as refused:
            return Candidate(source=item.source, key=item.key, skipped=refused.reason)
        return Candidate(
            source=item.source,
            key=item.key,
            sha256=checked.image.sha256,
            phash=checked.image.phash,
            concept=concept,
            labels=labels,
            text=checked.text,
            license=item.license or self._licenses[item.source],
            notes=checked.image.notes,
        )


def look(
    index: Index,
    sources: Sequence[Source],
    annotation: Annotation,
    *,
    device: torch.device,
    ranks: Ranks,
    block_size: int,
) -> None:
    """Look at this process's share of all blocks that are not in the index yet, and add them to it."""
    known = {candidate.place for candidate in index.read()}
    looking: _Looking | None = None
    num_seen, num_usable, said = 0, 0, time.monotonic()
    for source in sources:
        done = {key for name, key in known if name == source.name}
        new = partial(_is_new, done)
        items = source.items(rank=ranks.rank, num_ranks=ranks.num_ranks, block=block_size, only=new)
        for block in blocks(items, block_size):
            looking = looking or _Looking(annotation, sources, device=device)
            found = looking.candidates(block, source=source.name)
            index.append(found)
            num_seen += len(found)
            num_usable += sum(candidate.skipped is None for candidate in found)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                log.info("source %s: %d pictures looked at, %d can be used", source.name, num_seen, num_usable)


def blocks(items: Iterable[SourceItem | Skipped], size: int) -> Iterator[list[SourceItem | Skipped]]:
    """The items in lists of ``size``, the last one shorter."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def _is_new(done: Collection[str], key: str) -> bool:
    return key not in done


def _columns(rows: Sequence[Sequence[object]], width: int) -> list[list]:  # type: ignore[type-arg]
    """For each of ``width`` places what each row has there."""
    return [[row[place] for row in rows] for place in range(width)]


def _read(subjects: Sequence[SubjectReading], name: str) -> str:
    """The value that a reader sees in every subject of a picture; Refused when there is none, or several."""
    readings = [reading for reading in subjects if reading.attribute == name]
    values = {reading.value for reading in readings}
    for reading in readings:
        if reading.unread is not None:
            raise Refused(f"{name} unread: {reading.unread.partition(' (')[0]}")
    if len(values) > 1:
        raise Refused(f"subjects differ in {name} ({', '.join(sorted(map(str, values)))})")
    value = next(iter(values), None)
    if value is None:
        raise Refused(f"{name} unread")
    return value
