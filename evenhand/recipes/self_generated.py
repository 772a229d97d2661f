"""The curated set from the base itself: explicit prompts, images that readers confirm, neutral captions.

Every image is a function of (seed, concept, cell, place, attempt) and of the batch that it is in. `attempts.py` says
which batches there are; processes share them. A killed build goes on with the same batches, in any number of processes,
and ends with the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evenhand.hygiene.filters import ReaderFilter
from evenhand.interfaces import Base, Reader, SamplingSettings
from evenhand.paths import model_path
from evenhand.processes import Ranks
from evenhand.recipes.attempts import Attempt, Batch, Confirmation, Filling, Journal, Outcome, acceptance
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import PRESERVE, TRAIN, Origin, explicit_rows, image_name, request_row, train_row
from evenhand.recipes.models import Judges, Models
from evenhand.recipes.pictures import Made, PictureWriter, check_room
from evenhand.recipes.preserve import Preserve, requests_of
from evenhand.recipes.report import BuildAccount
from evenhand.records import Example
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch
    from PIL import Image


class SelfGenerated:
    """See the head of this file.

    ``concept_attribute`` is the reader's attribute whose value must be the concept's name; null where the reader has
    none, and then only the labels are confirmed. With ``confirm: all``, every reader must confirm an image; with
    ``first``, the first does, and where others disagree is counted. An image that one of ``filters`` leaves out is
    refused like one that no reader confirms. ``max_attempts_factor`` times a cell's quota is its
    budget. With ``preserve`` null there is no ``preserve/``.
    """

    def __init__(
        self,
        *,
        plan: CuratedPlan,
        base: Base,
        reader: Reader,
        second_readers: Mapping[str, Reader | None],
        confirm: Literal["all", "first"],
        concept_attribute: str | None,
        filters: Mapping[str, ReaderFilter],
        sampling: SamplingSettings,
        batch_size: int,
        dtype: Literal["float32", "float16", "bfloat16"],
        max_attempts_factor: int,
        license: str,
        preserve: Preserve | None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_attempts_factor", max_attempts_factor)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.plan = plan
        self.base = base
        self.readers = (reader, *(second for second in second_readers.values() if second is not None))
        names = tuple(each.name for each in self.readers)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"reader {twice[0]} is asked twice: second_readers must be other readers than reader")
        self.confirmation = Confirmation(readers=names, every=confirm == "all")
        self.judges = Judges(self.readers, plan, concept_attribute=concept_attribute)
        self.filters = tuple(filters.values())
        self.sampling = sampling
        self.batch_size = batch_size
        self.dtype = dtype
        self.max_attempts_factor = max_attempts_factor
        self.preserve = preserve
        confirmed_by = " and ".join(names if confirm == "all" else names[:1])
        self.origin = Origin(source=f"self:{base.name}", confirmed_by=confirmed_by, license=license)
        self.requests = requests_of(plan, preserve)
        self.num_images = len(plan.slots) + len(self.requests) + self._num_explicit

    @property
    def inputs(self) -> Mapping[str, Path]:
        """The models that lie on this machine; one from the hub is pinned by its revision instead."""
        models = {"base": self.base, "reader": self.readers[0]}
        models |= {f"reader {reader.name}": reader for reader in self.readers[1:]}
        models |= {f"filter {each.name}": each.reader for each in self.filters}
        named = {name: model_path(part.model) for name, part in models.items() if hasattr(part, "model")}
        return {**{name: Path(model) for name, model in named.items() if Path(model).is_dir()}, **self.plan.inputs}

    def check(self, folder: Path) -> None:
        """Raise ValueError for captions that the base would cut off, or a folder that cannot hold the set."""
        captions = [slot.explicit for slot in self.plan.slots] + [request.caption for request in self.requests]
        self.base.check_captions(list(dict.fromkeys(captions)), where="recipe.plan.templates or recipe.preserve")
        num_files = self.num_images - self._num_explicit  # those are links
        check_room(folder, num_images=num_files, num_pixels=self.sampling.height_px * self.sampling.width_px)

    def account(self, folder: Path) -> BuildAccount:
        """Attempts, confirmed ones and reasons of refusal per cell."""
        notes = []
        if len(self.readers) > 1:
            each = "each of them must confirm an image" if self.confirmation.every else "the first one confirms"
            notes.append(f"readers: {', '.join(self.confirmation.readers)}; {each}")
        cells = acceptance(folder, self.plan, self.confirmation)
        refused: Counter[str] = Counter()
        for cell in cells:
            refused.update(cell.refused)
        return BuildAccount(
            acceptance=cells,
            filters={each.name: refused[f"left out by filter {each.name}"] for each in self.filters},
            notes=tuple(notes),
            sources={self.origin.source: self.origin.license},
        )

    def build(self, folder: Path, *, device: torch.device, ranks: Ranks) -> Iterator[Example]:
        """Fill every slot, then ``preserve/``; ValueError names the cells whose budget is spent."""
        models = Models(self.base, self.readers, self.filters, self.sampling, device=device, dtype=self.dtype)
        journal = Journal(folder, rank=ranks.rank, num_readers=len(self.readers))
        filling = Filling(
            self.plan, self.confirmation, batch_size=self.batch_size, max_attempts_factor=self.max_attempts_factor
        )
        with PictureWriter(folder) as writer:
            for batches in filling.rounds():
                known = journal.begin(batches)
                found: dict[int, Sequence[Outcome]] = {}
                share = self._share(folder, batches, known, ranks, models=models, filling=filling, journal=journal)
                for number, outcomes in writer.behind(share):
                    found[number] = outcomes
                    for attempt in filling.winners(batches[number], outcomes).values():
                        yield train_row(attempt.slot, self.origin, seed=attempt.seed)
                every = dict(ranks.gather(list(found.items())))
                for number, batch in enumerate(batches):
                    filling.learn(batch, every[number])
                if ranks.rank == 0:
                    journal.end(batches, [every[number] for number in range(len(batches))])
            # every training image is on the disk now, whoever made it
            yield from self._explicit(folder, filling.filled, ranks)
            for rows in writer.behind(self._requested(folder, ranks, models=models)):
                yield from rows
        ranks.wait()
        if ranks.rank == 0:
            journal.close()

    @property
    def _num_explicit(self) -> int:
        return len(self.plan.slots) if self.preserve is not None and self.preserve.explicit else 0

    def _share(
        self,
        folder: Path,
        batches: Sequence[Batch],
        known: Sequence[Sequence[Outcome] | None],
        ranks: Ranks,
        *,
        models: Models,
        filling: Filling,
        journal: Journal,
    ) -> Iterator[Made[tuple[int, Sequence[Outcome]]]]:
        """This rank's batches of a round by their numbers, and what came of them."""
        for number in range(ranks.rank, len(batches), ranks.num_ranks):
            batch, outcomes = batches[number], known[number]
            if outcomes is not None and _all_there(folder, _files(filling.winners(batch, outcomes)).values()):
                yield Made(item=(number, outcomes), images={}, then=_nothing)
                continue
            images = models.generate([item.slot.explicit for item in batch], [item.seed for item in batch])
            then = _nothing
            if outcomes is None:
                outcomes = self.judges.outcomes([item.slot for item in batch], images, models)
                then = partial(journal.note, batch, outcomes)
            files = _files(filling.winners(batch, outcomes))
            images_by_file = {name: images[position] for position, name in files.items()}
            yield Made(item=(number, outcomes), images=images_by_file, then=then)

    def _explicit(self, folder: Path, filled: Mapping[int, Attempt], ranks: Ranks) -> Iterator[Example]:
        """This rank's share of the training images under their explicit captions."""
        if self._num_explicit:
            share = self.plan.slots[ranks.rank :: ranks.num_ranks]
            rows = {slot.index: train_row(slot, self.origin, seed=filled[slot.index].seed) for slot in share}
            yield from explicit_rows(folder, self.plan, rows)

    def _requested(self, folder: Path, ranks: Ranks, *, models: Models) -> Iterator[Made[Sequence[Example]]]:
        """This rank's share of the images of preserve captions, which no reader confirms."""
        rows = [
            request_row(
                request,
                self.origin,
                index=index,
                seed=derive(self.plan.seed, PRESERVE, request.caption, request.number),
            )
            for index, request in enumerate(self.requests, start=self._num_explicit)
        ]
        for start in range(0, len(rows), self.batch_size)[ranks.rank :: ranks.num_ranks]:
            batch = rows[start : start + self.batch_size]
            names = [row.file_name for row in batch]
            images: dict[str, Image.Image] = {}
            if not _all_there(folder, names):
                made = models.generate([row.text for row in batch], [row.seed for row in batch])
                images = dict(zip(names, made, strict=True))
            yield Made(item=batch, images=images, then=_nothing)


def _files(winners: Mapping[int, Attempt]) -> dict[int, str]:
    """The file of each winner by its position in the batch."""
    return {position: image_name(TRAIN, attempt.slot.index) for position, attempt in winners.items()}


def _all_there(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _nothing() -> None:
    """What is to be done when nothing is."""
