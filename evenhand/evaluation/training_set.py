"""What an adapter's files say of its training: the set whose images must not come back, readers that cannot judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evenhand.files import read_json, sha256_path

AUTO = "auto"
CARD_FILE, PROVENANCE_FILE = "card.json", "provenance.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Its folder, None where there is none to compare with; ``why`` says in words what was taken."""

    folder: Path | None
    why: str


def training_set(adapter: Path, given: str | None, *, scored: bool) -> TrainingSet:
    """The set to compare images with: the one ``given``, none for None, and for ``auto`` what the adapter's run names.

    ``adapter`` is the folder with the weights, or the file in it. Without scores nothing can be compared: ValueError
    where a set is given nevertheless.
    """
    if not scored and given not in (None, AUTO):
        raise ValueError(f"training_set={given} is compared with images by a scorer's features, but scorer=none")
    if given is None or not scored:
        key = "training_set=null" if scored else "scorer=none"
        return TrainingSet(folder=None, why=f"none ({key}); copies of training images are not looked for")
    if given != AUTO:
        return TrainingSet(folder=Path(given), why=f"{given} (training_set)")
    folder = set_of_training_run(adapter)
    if folder is None:
        why = (
            "none: the adapter's run does not say where it is, or it has changed since; copies of training images are "
            "not looked for (training_set=<folder> names it)"
        )
        return TrainingSet(folder=None, why=why)
    return TrainingSet(folder=folder, why=f"{folder.as_posix()} (what the adapter was trained on)")


def training_reader(adapter: Path, given: str | None, *, reader: str) -> str | None:
    """The reader that had a say in the weights: the one ``given``, else what the adapter's card names, if anything.

    ``adapter`` is the folder with the weights, or the file in it. Of several readers ``reader``, the judge, goes first:
    that it is one of them is what must be known.
    """
    if given is not None:
        return given
    card = (adapter if adapter.is_dir() else adapter.parent) / CARD_FILE
    named = read_json(card).get("training_readers", []) if card.is_file() else []
    return reader if reader in named else next(iter(named), None)


def set_of_training_run(adapter: Path) -> Path | None:
    """The set that the provenance of the training run names, if it still is what the adapter's card says."""
    folder = adapter if adapter.is_dir() else adapter.parent
    card, provenance = folder / CARD_FILE, folder.parent / PROVENANCE_FILE
    if not card.is_file() or not provenance.is_file():
        return None
    data = read_json(provenance).get("inputs", {}).get("data", {})
    place = Path(data.get("path", ""))
    if not data or not place.is_dir() or sha256_path(place) != read_json(card).get("data_sha256"):
        return None
    return place
