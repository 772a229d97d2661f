"""The curated set from pictures that others made: of folders, Parquet files, WebDataset shards or the hub.

Sources are streamed twice. First every picture is checked, read and put into an index (`candidates.py`); then the
pictures that fill the plan's slots are drawn by the seed, streamed again, and written as they are: upright, RGB,
without metadata. No more than a block of pictures is ever in memory, and a killed build goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evenhand.files import write_json_atomic
from evenhand.hygiene.filters import ReaderFilter
from evenhand.hygiene.images import ImageLimits, check_image
from evenhand.hygiene.people import Depicts, check_explicit, shown_key
from evenhand.hygiene.skips import kind_of
from evenhand.interfaces import Reader
from evenhand.paths import model_path
from evenhand.processes import Ranks
from evenhand.recipes.annotation import Annotation, Captions, LabelsFrom, blocks, look
from evenhand.recipes.candidates import FOLDER, Candidate, Index, Place, without_duplicates
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import (
    PRESERVE,
    TRAIN,
    Origin,
    explicit_rows,
    image_name,
    place_again,
    save_image,
    train_row,
)
from evenhand.recipes.pictures import check_room, full_disk_said
from evenhand.recipes.preserve import Preserve
from evenhand.recipes.report import BuildAccount, count_skipped
from evenhand.recipes.resample import draw_seed, drawn, lacks, lacks_told, pools, reweighted
from evenhand.records import Example
from evenhand.seeds import derive
from evenhand.sources.records import Skipped, Source, SourceItem

if TYPE_CHECKING:
    import torch
    from PIL import Image

LACKING = "lacking.json"
MOST_REASONS = 3
AGAIN = "bring it back, or remove the run folder to look at the sources again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The plan as the pictures fill it, and the picture of each of its slots."""

    plan: CuratedPlan
    pictures: Sequence[Candidate]


class Collected:
    """See the head of this file.

    ``mode: resample`` fills the plan's quotas, ``reweight`` makes each concept as large as its pictures allow, up to
    ``images_per_concept``; in both the target's shares are exact and no picture is used more than ``max_repeats``
    times. ``near_distance`` is how many of 64 bits of their perceptual hashes may differ in pictures that count as the
    same; null counts only equal bytes. ``max_side_px`` makes larger pictures smaller; null leaves them. Of ``preserve``
    only ``explicit`` and ``empty`` can be had: there are no pictures for captions of its own. For the rest see
    `evenhand.recipes.annotation.Annotation`.
    """

    def __init__(
        self,
        *,
        plan: CuratedPlan,
        sources: Mapping[str, Source],
        reader: Reader | None,
        second_readers: Mapping[str, Reader | None],
        labels_from: LabelsFrom,
        concept_attribute: str | None,
        filters: Mapping[str, ReaderFilter],
        captions: Captions,
        limits: ImageLimits,
        near_distance: int | None,
        mode: Literal["resample", "reweight"],
        max_repeats: int,
        max_side_px: int | None,
        block_size: int,
        preserve: Preserve | None,
    ) -> None:
        for name, value in (("max_repeats", max_repeats), ("block_size", block_size), ("max_side_px", max_side_px)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self._asked = plan
        self.plan = plan  # with mode reweight, and once the sources were looked at, as they fill it
        self.sources = tuple(sources.values())
        self.annotation = Annotation(
            plan=plan,
            readers=[each for each in (reader, *second_readers.values()) if each is not None],
            labels_from=labels_from,
            concept_attribute=concept_attribute,
            filters=list(filters.values()),
            captions=captions,
            limits=limits,
        )
        self.near_distance = near_distance
        self.mode = mode
        self.max_repeats = max_repeats
        self.max_side_px = max_side_px
        self.block_size = block_size
        self.preserve = preserve
        self._check_sources()
        self._check_preserve()
        names = [reader.name for reader in self.annotation.readers]
        self.origin = Origin(
            source=f"collected:{','.join(source.name for source in self.sources)}",
            confirmed_by=" and ".join(names) or None,
            license="; ".join(dict.fromkeys(source.license for source in self.sources)),
        )

    @property
    def num_images(self) -> int:
        """Rows of the set; with ``mode: reweight`` the most there may be, until the sources were looked at."""
        return len(self.plan.slots) * (2 if self._explicit else 1) + self._num_empty

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The sources and the readers' models that lie on this machine; those on the hub are pinned by revisions."""
        parts = [*self.annotation.readers, *(each.reader for each in self.annotation.filters)]
        models = {f"reader {part.name}": Path(model_path(part.model)) for part in parts if hasattr(part, "model")}
        folders = {f"source {name}": path for source in self.sources for name, path in source.inputs.items()}
        return {name: path for name, path in {**models, **folders, **self.plan.inputs}.items() if path.exists()}

    def check(self, folder: Path) -> None:
        """Raise ValueError for a source that is not there, lacks a column or holds nothing, and for a full disk."""
        for source in self.sources:
            source.check()
        least = self.annotation.limits.min_side_px**2
        check_room(folder, num_images=len(self.plan.slots), num_pixels=least)

    def build(self, folder: Path, *, device: torch.device, ranks: Ranks) -> Iterator[Example]:
        """Look at all sources, draw, and write; ValueError names every cell that the pictures cannot fill."""
        index = Index(folder, rank=ranks.rank)
        if not index.finished():
            look(index, self.sources, self.annotation, device=device, ranks=ranks, block_size=self.block_size)
            ranks.wait()
            if ranks.rank == 0:
                index.finish(len(index.read()))
        drawing = self._draw(self._candidates(index), folder)
        self.plan = drawing.plan
        there = [slot.index for slot in self.plan.slots if (folder / image_name(TRAIN, slot.index)).is_file()]
        there = ranks.gather(there if ranks.rank == 0 else [])  # as rank 0 saw it, before any of them writes
        yield from (self._row(drawing, number) for number in there[ranks.rank :: ranks.num_ranks])
        yield from (self._row(drawing, number) for number in self._write(folder, drawing, set(there), ranks))
        ranks.wait()
        for slot, picture in zip(self.plan.slots, drawing.pictures, strict=True):
            if not (folder / image_name(TRAIN, slot.index)).is_file():
                raise ValueError(f"source {picture.source}: {picture.key} is gone since it was looked at; {AGAIN}")
        yield from self._preserve(folder, drawing, ranks)

    def account(self, folder: Path) -> BuildAccount:
        """What was left out and why, what was changed in pictures, and how often one of them stands in the set."""
        found = self._candidates(Index(folder, rank=0))
        depicts = _depicts(self.sources)
        skipped = [
            (f"{each.source}:{shown_key(depicts, each.key)}", kind_of(each.skipped))
            for each in found
            if each.skipped is not None
        ]
        uses = Counter(picture.place for picture in self._draw(found, folder).pictures)
        usable = [each for each in found if each.skipped is None]
        changed = Counter(note for each in usable if each.place in uses for note in each.notes)
        notes = [
            f"{len(uses)} of {len(usable)} usable pictures are in the set, none more than {max(uses.values())} times "
            f"(mode {self.mode})",
            *(f"pictures with {note}: {number}" for note, number in sorted(changed.items())),
        ]
        if self.annotation.labels_from == "source":
            notes.append("labels are as the sources give them; no reader was asked")
        return BuildAccount(
            skipped=count_skipped(skipped),
            filters={
                each.name: sum(kind == f"left out by filter {each.name}" for _, kind in skipped)
                for each in self.annotation.filters
            },
            notes=tuple(notes),
            sources={source.name: source.license for source in self.sources},
            depicts=depicts,
            consent="; ".join(source.consent for source in self.sources if source.consent) or None,
            max_repeats=self.max_repeats,
        )

    def _check_sources(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise ValueError("sources is empty; a collected set needs at least one (recipe.sources)")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}; give each its own name (source.name)")
        self.annotation.check(self.sources)
        if self._explicit:
            for source in self.sources:
                check_explicit(source.depicts, source=source.name)

    def _check_preserve(self) -> None:
        if self.plan.left_alone:
            raise ValueError(
                f"concept {self.plan.left_alone[0].name!r} is to stay as the base has it, and a collected set has no "
                "base to make its pictures; leave it out of suite.concepts.train, or build it by recipe=sd_self"
            )
        if self.preserve is None:
            return
        if self.preserve.captions:
            raise ValueError(
                f"recipe.preserve.captions: a collected set has no pictures for {self.preserve.captions[0]!r}; leave "
                "the list empty (explicit and empty captions can be had)"
            )
        _check_empty(self.preserve, self.plan)

    @property
    def _explicit(self) -> bool:
        return self.preserve is not None and self.preserve.explicit

    @property
    def _num_empty(self) -> int:
        return 0 if self.preserve is None else self.preserve.empty

    def _candidates(self, index: Index) -> list[Candidate]:
        return without_duplicates(index.read(), near_distance=self.near_distance)

    def _draw(self, found: Sequence[Candidate], folder: Path) -> Drawing:
        """The same on every rank, and in every call with the same index."""
        by_cell = pools(self._asked, found)
        plan = self._asked
        if self.mode == "reweight":
            plan = reweighted(plan, by_cell, max_repeats=self.max_repeats)
            if self.preserve is not None:
                _check_empty(self.preserve, plan)
        lacking = lacks(plan, by_cell, max_repeats=self.max_repeats)
        if lacking:
            path = folder / FOLDER / LACKING
            write_json_atomic(path, lacking)
            told = lacks_told(plan, by_cell, lacking, max_repeats=self.max_repeats, mode=self.mode)
            raise ValueError(f"{told}; all of these cells are in {path}; {_left_out(found)}")
        return Drawing(plan=plan, pictures=drawn(plan, by_cell))

    def _write(self, folder: Path, drawing: Drawing, there: Collection[int], ranks: Ranks) -> Iterator[int]:
        """Write the images that are not there yet, of this rank's share of the sources; yield their slots."""
        slots_of: dict[Place, list[int]] = {}
        for slot, picture in zip(drawing.plan.slots, drawing.pictures, strict=True):
            if slot.index not in there:
                slots_of.setdefault(picture.place, []).append(slot.index)
        pictures = {picture.place: picture for picture in drawing.pictures}

        def write(item: SourceItem | Skipped, source: str) -> list[int]:
            self._save(folder, item, pictures[source, item.key], slots_of[source, item.key])
            return slots_of[source, item.key]

        with ThreadPoolExecutor(thread_name_prefix="picture") as pool, full_disk_said(folder):
            for source in self.sources:
                wanted = {key for name, key in slots_of if name == source.name}
                items = source.items(
                    rank=ranks.rank, num_ranks=ranks.num_ranks, block=self.block_size, only=wanted.__contains__
                )
                for block in blocks(items, self.block_size) if wanted else ():
                    for numbers in pool.map(write, block, repeat(source.name)):
                        yield from numbers

    def _save(self, folder: Path, item: SourceItem | Skipped, picture: Candidate, numbers: Sequence[int]) -> None:
        """Write a picture once, and place it again in each further slot that it fills."""
        if isinstance(item, Skipped):
            raise ValueError(
                f"source {picture.source}: {picture.key} could be read before, now: {item.reason}; {AGAIN}"
            )
        checked = check_image(item.content, self.annotation.limits, name=item.key)
        if checked.sha256 != picture.sha256:
            raise ValueError(f"source {picture.source}: {picture.key} has changed since it was looked at; {AGAIN}")
        first = image_name(TRAIN, numbers[0])
        save_image(_at_most(checked.image, self.max_side_px), folder / first)
        for number in numbers[1:]:
            place_again(folder, first, image_name(TRAIN, number))

    def _row(self, drawing: Drawing, number: int) -> Example:
        slot, picture = drawing.plan.slots[number], drawing.pictures[number]
        depicts = _depicts(self.sources)
        key = shown_key(depicts, picture.key)
        row = train_row(slot, self.origin, seed=draw_seed(drawing.plan, picture))
        row = replace(row, source=f"{picture.source}:{key}", license=picture.license)
        if depicts == "people":  # what is known of a person stays out of all text beside the picture
            row = replace(row, explicit="")
        return row if picture.text is None else replace(row, text=picture.text, template=picture.text, explicit="")

    def _preserve(self, folder: Path, drawing: Drawing, ranks: Ranks) -> Iterator[Example]:
        """This rank's part of ``preserve/``: training images again, under explicit captions and under the empty one."""
        slots, plan = drawing.plan.slots, drawing.plan
        if self._explicit:
            share = slots[ranks.rank :: ranks.num_ranks]
            yield from explicit_rows(folder, plan, {slot.index: self._row(drawing, slot.index) for slot in share})
        first = len(slots) if self._explicit else 0
        order = sorted(slots, key=lambda slot: derive(plan.seed, "empty caption", slot.index))
        chosen = list(enumerate(order[: self._num_empty], start=first))
        for number, slot in chosen[ranks.rank :: ranks.num_ranks]:
            row = self._row(drawing, slot.index)
            name = image_name(PRESERVE, number)
            place_again(folder, row.file_name, name)
            yield replace(row, file_name=name, text="", concept="", labels={}, template="", explicit="")


def _left_out(found: Sequence[Candidate]) -> str:
    """How much of the sources was left out, and for what reasons most of it."""
    reasons = Counter(kind_of(each.skipped) for each in found if each.skipped is not None)
    most = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(MOST_REASONS))
    return f"{reasons.total()} of {len(found)} places were left out" + (f": {most}" if most else "")


def _check_empty(preserve: Preserve, plan: CuratedPlan) -> None:
    if preserve.empty > len(plan.slots):
        raise ValueError(
            f"recipe.preserve.empty={preserve.empty} is more than the set's {len(plan.slots)} images, of which its "
            "pictures are"
        )


def _depicts(sources: Sequence[Source]) -> Depicts:
    """The most careful word for all sources together."""
    found: set[Depicts] = {source.depicts for source in sources}
    return "people" if "people" in found else "other" if "other" in found else "synthetic"


def _at_most(image: Image.Image, max_side_px: int | None) -> Image.Image:
    """The image, made smaller when its longer side is longer than this."""
    from PIL import Image

    if max_side_px is None or max(image.size) <= max_side_px:
        return image
    scale = max_side_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
