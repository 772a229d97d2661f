"""An audit put together: everything that ``audit.json`` holds, from the pictures that were looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evenhand.captions.language import Language
from evenhand.captions.quotas import JOINT
from evenhand.evaluation.suites import Suites
from evenhand.hygiene.people import check_reading, people_record
from evenhand.interfaces import Reader
from evenhand.records import Attribute, target_json
from evenhand.set_audit.agreement import Agreement, Reach, agreement, reach
from evenhand.set_audit.captions import caption_report, unseen_prompts
from evenhand.set_audit.contents import contents, duplicates, skipped_rows
from evenhand.set_audit.findings import findings
from evenhand.set_audit.judging import judge
from evenhand.set_audit.pictures import LABELS, Picture
from evenhand.set_audit.settings import AuditSettings
from evenhand.set_audit.shares import MeanDistance, Shares, shares_of
from evenhand.set_audit.wanted import CERTIFICATE, Wanted, certificate_of
from evenhand.sources.records import Skipped, Source

AUDIT_FILE = "audit.json"
VERSION = 1

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, kw_only=True)
class SetAudit:
    """What is asked of a set. ``readers`` are in their order: the first one's shares are judged; none: the labels are.

    ``against`` is a suite whose prompts claim to be unseen, ``language`` that of the captions.
    """

    source: Source
    attributes: tuple[Attribute, ...]
    wanted: Wanted
    readers: tuple[Reader, ...]
    settings: AuditSettings
    against: Suites | None
    language: Language

    def check(self) -> None:
        """ValueError for what would fail after an hour: nothing is loaded, and the source is only looked at."""
        self._check_people()
        if self.readers:
            check_reading(self.source.depicts, "measure", source=self.source.name)
        names = [reader.name for reader in self.readers]
        if len(set(names)) != len(names) or LABELS in names:
            raise ValueError(f"readers need different names, and none may be {LABELS!r}, got {', '.join(names)}")
        for reader in self.readers:
            for attribute in self.attributes:
                _check_reads(reader, attribute)
        if self.against is not None:
            unseen_prompts(self.against, self.attributes)
        self.source.check()

    def _check_people(self) -> None:
        """ValueError where a set's own certificate says that it shows real people, and its source is not said to."""
        certificate = certificate_of(self.source.inputs) or {}
        declared = (certificate.get("people") or {}).get("depicts")
        if declared == "people" and self.source.depicts != "people":
            raise ValueError(
                f"source {self.source.name}: its {CERTIFICATE} says that it depicts people, and source.depicts is "
                f"{self.source.depicts}; set source.depicts=people, and source.consent"
            )

    def of(self, seen: Sequence[Picture | Skipped]) -> Json:
        """The content of ``audit.json``; ValueError where no picture could be used."""
        pictures = [each for each in seen if isinstance(each, Picture)]
        skipped = skipped_rows([each for each in seen if isinstance(each, Skipped)])
        if not pictures:
            reasons = ", ".join(f"{row['number']} {row['reason']}" for row in skipped) or "it gives none"
            raise ValueError(f"source {self.source.name}: no picture can be used ({reasons})")
        names = [reader.name for reader in self.readers]
        by = names[0] if names else LABELS
        shares, means = self._shares(pictures)
        unseen = None if self.against is None else unseen_prompts(self.against, self.attributes)
        made_of = contents(pictures, license_of_all=self.source.license)
        judgements = judge([entry for entry in shares if entry.reader == by and self._is_judged(entry)], self.settings)
        reaches, agreements = self._reaches(pictures, shares), self._agreements(pictures, shares, by)
        parts: Json = {
            "captions": caption_report(pictures, self.attributes, unseen=unseen, language=self.language),
            "duplicates": duplicates(pictures, near_distance=self.settings.near_distance),
            "skipped": skipped,
        }
        found = findings(
            judgements=judgements,
            origin=self.wanted.origin,
            reaches=reaches,
            agreements=agreements,
            licenses=made_of["licenses"],
            absent=sorted(self.wanted.expected - set(made_of["concepts"])),
            max_unread=self.settings.max_unread,
            **parts,
        )
        return {
            **self._question(by),
            "passed": not any(finding.level == "failed" for finding in found),
            "n_images": len(pictures),
            "n_skipped": len(seen) - len(pictures),
            "findings": [asdict(finding) for finding in found],
            "judgements": [asdict(judgement) for judgement in judgements],
            "shares": [asdict(entry) for entry in shares],
            "distances": [{**asdict(entry), "rms": entry.rms} for entry in means],
            "reach": [asdict(entry) for entry in reaches],
            "agreement": [asdict(entry) for entry in agreements],
            **parts,
            **made_of,
        }

    def _shares(self, pictures: Sequence[Picture]) -> tuple[list[Shares], list[MeanDistance]]:
        """By every reader, and by the labels of what they say anything of; without a reader, by the labels alone."""
        labelled = {
            each.attribute for picture in pictures for each in picture.readings[LABELS] if each.value is not None
        }
        shares: list[Shares] = []
        means: list[MeanDistance] = []
        for name in (*(reader.name for reader in self.readers), LABELS):
            of = labelled if name == LABELS and self.readers else None
            found = shares_of(pictures, self.wanted, reader=name, level=self.settings.level, of=of)
            shares += found[0]
            means += found[1]
        return shares, means

    def _reaches(self, pictures: Sequence[Picture], shares: Sequence[Shares]) -> list[Reach]:
        return [
            reach(pictures, attribute, name, doubt_below=self.settings.doubt_below, named=self._may_name)
            for name, attribute in self._said(shares)
        ]

    def _agreements(self, pictures: Sequence[Picture], shares: Sequence[Shares], by: str) -> list[Agreement]:
        """Of the one whose shares are judged with every other."""
        return [
            agreement(pictures, attribute, by, name, level=self.settings.level, named=self._may_name)
            for name, attribute in self._said(shares)
            if name != by
        ]

    @property
    def _may_name(self) -> bool:
        """Whether a picture may be named beside what a reader said of it."""
        return self.source.depicts != "people"

    def _said(self, shares: Sequence[Shares]) -> list[tuple[str, Attribute]]:
        """Who says something of which attribute."""
        by_name = {item.name: item for item in self.attributes}
        pairs = dict.fromkeys((entry.reader, entry.attribute) for entry in shares if entry.attribute in by_name)
        return [(reader, by_name[attribute]) for reader, attribute in pairs]

    def _is_judged(self, entry: Shares) -> bool:
        return self.wanted.judged.issuperset(entry.attribute.split(JOINT))

    def _question(self, by: str) -> Json:
        """What was asked, and of what."""
        people = people_record(self.source.depicts, getattr(self.source, "consent", None))
        return {
            "version": VERSION,
            "set": self.source.name,
            "inputs": {name: place.as_posix() for name, place in self.source.inputs.items()},
            "people": dict(people),
            "by": by,
            "readers": [
                {
                    "name": reader.name,
                    "revision": reader.revision,
                    "license": reader.license,
                    "validated_on": reader.validated_on,
                }
                for reader in self.readers
            ],
            "attributes": {item.name: list(item.values) for item in self.attributes},
            "targets": [target_json(target) for target in self.wanted.targets],
            "target_origin": self.wanted.origin,
            "judged": sorted(self.wanted.judged),
            "settings": asdict(self.settings),
        }


def _check_reads(reader: Reader, attribute: Attribute) -> None:
    values = reader.attributes.get(attribute.name)
    if values is None:
        raise ValueError(
            f"reader {reader.name} does not read {attribute.name!r}; it reads {', '.join(reader.attributes)} "
            "(attribute=..., or another reader=...)"
        )
    if set(values) != set(attribute.values):
        raise ValueError(
            f"reader {reader.name} reads {attribute.name} as {', '.join(values)}, but the attribute's values are "
            f"{', '.join(attribute.values)}; choose another reader, or declare its values"
        )


def thumbnails_of(seen: Sequence[Picture | Skipped]) -> Mapping[str, bytes]:
    """The small pictures that a page may show, by name."""
    return {each.key: each.thumbnail for each in seen if isinstance(each, Picture) and each.thumbnail is not None}
