"""Which evaluation prompts an adapter has met in training, word for word, and what follows from it.

Texts are compared without regard to Unicode form, case, punctuation, hyphens and spacing. A rewording is no overlap.
What an overlap means depends on what a suite is for:

- The headline's suite, ``heldout`` and ``offtemplate`` claim something about prompts that training never showed. A
  prompt that it did show would be counted under a false name: it is left out, and listed.
- ``train`` asks what became of the concepts that were trained on. Having been shown is what makes a prompt belong
  there, so its prompts stay, and are counted. They are no evidence of anything else; as the headline they fall under
  the rule above.
- In ``explicit``, ``fixed``, ``unrelated``, ``groups`` and ``scene`` an adapter may have been held to its base on the
  very prompts that test it. They stay, since a guard with fewer prompts is a weaker guard, and are counted, so that a
  report can say how much of a guard was practised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evenhand.captions.leaks import normalise
from evenhand.evaluation.suites import PlannedPrompt
from evenhand.evaluation.training_set import set_of_training_run
from evenhand.files import read_json, read_jsonl, sha256_json, write_json_atomic

CAPTIONS_FILE = "captions.json"
METADATA_FILE = "metadata.jsonl"
SPLITS = ("train", "preserve")
# Suites whose names say that their prompts were not seen.
UNSEEN_SUITES = ("heldout", "offtemplate")

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCaptions:
    """The captions of a training, as :func:`text_key` has them, by split; ``source`` says where they were found."""

    by_split: Mapping[str, frozenset[str]]
    source: str

    def split_of(self, text: str) -> str | None:
        """The split in which a text occurs; None where it does not."""
        key = text_key(text)
        return next((split for split, keys in self.by_split.items() if key in keys), None)

    def facts(self) -> Json:
        """What a plan says of them."""
        counts = {split: len(keys) for split, keys in self.by_split.items()}
        keys = {split: sorted(keys) for split, keys in self.by_split.items()}
        return {"sha256": sha256_json(keys), **counts, "source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """``prompts`` that remain; ``excluded`` ones, and by suite how many of the others were ``seen``."""

    prompts: tuple[PlannedPrompt, ...]
    excluded: tuple[Json, ...]
    seen: Mapping[str, Json]


def text_key(text: str) -> str:
    """A text as it is compared with another."""
    return " ".join(re.sub(r"[^\w\s]+", " ", normalise(text)).split())


def write_captions(folder: Path, captions: Mapping[str, Iterable[str]]) -> Path:
    """Store what an adapter was trained on beside its weights, each caption once; the path."""
    path = folder / CAPTIONS_FILE
    write_json_atomic(path, {split: sorted(set(texts) - {""}) for split, texts in captions.items()})
    return path


def merge_captions(adapters: Iterable[Path], to: Path) -> None:
    """Store what several adapters were trained on beside the one that was made of them, if it is known of all."""
    files = [adapter / CAPTIONS_FILE for adapter in adapters]
    if not all(file.is_file() for file in files):
        return
    texts: dict[str, list[str]] = {}
    for file in files:
        for split, captions in read_json(file).items():
            texts.setdefault(split, []).extend(captions)
    write_captions(to, texts)


def training_captions(adapter: Path, given: Path | None = None) -> TrainingCaptions | None:
    """The captions that an adapter was trained on; None where nothing tells them.

    They are taken from ``given`` (a curated set, a ``metadata.jsonl``, or text with a caption on each line), else from
    the file beside the adapter's weights, else from the curated set of its training run if that is still the same.
    """
    if given is not None:
        return _given(given)
    folder = adapter if adapter.is_dir() else adapter.parent
    if (folder / CAPTIONS_FILE).is_file():
        content = read_json(folder / CAPTIONS_FILE)
        if not isinstance(content, dict) or not all(isinstance(texts, list) for texts in content.values()):
            raise ValueError(f"{folder / CAPTIONS_FILE} must map splits to lists of captions")
        return _captions(content, CAPTIONS_FILE)
    place = set_of_training_run(adapter)
    return None if place is None else _of_set(place, "the curated set that it was trained on")


def _given(given: Path) -> TrainingCaptions:
    if given.is_dir():
        return _of_set(given, given.as_posix())
    if not given.is_file():
        raise ValueError(
            f"training_captions={given} does not exist; name a curated set, a metadata.jsonl or a text file"
        )
    if given.suffix == ".jsonl":
        return _captions({SPLITS[0]: _texts(given)}, given.as_posix())
    return _captions({SPLITS[0]: given.read_text(encoding="utf-8").splitlines()}, given.as_posix())


def _of_set(folder: Path, source: str) -> TrainingCaptions:
    found = {split: folder / split / METADATA_FILE for split in SPLITS}
    captions = {split: _texts(path) for split, path in found.items() if path.is_file()}
    if not captions:
        raise ValueError(f"training_captions: {folder} has no {SPLITS[0]}/{METADATA_FILE}")
    return _captions(captions, source)


def _texts(path: Path) -> list[str]:
    rows = read_jsonl(path)
    if any("text" not in row for row in rows):
        raise ValueError(f"{path}: every row needs a text")
    return [row["text"] for row in rows]


def _captions(captions: Mapping[str, Iterable[str]], source: str) -> TrainingCaptions:
    keys = {split: frozenset(map(text_key, texts)) - {""} for split, texts in captions.items()}
    return TrainingCaptions(by_split=keys, source=source)


def without_overlap(prompts: Sequence[PlannedPrompt], captions: TrainingCaptions, *, headline_suite: str) -> Overlap:
    """Prompts without those that would be counted as unseen and were not, and what was found.

    Raises ValueError when nothing of the headline's suite remains.
    """
    unseen = {*UNSEEN_SUITES, headline_suite}
    kept: list[PlannedPrompt] = []
    excluded: list[Json] = []
    seen: dict[str, Json] = {}
    for entry in prompts:
        suite, split = entry.prompt.suite, captions.split_of(entry.prompt.text)
        if suite in unseen and split is not None:
            excluded.append({"prompt": asdict(entry.prompt), "seeds": entry.num_seeds, "split": split})
            continue
        kept.append(entry)
        if suite not in unseen:
            counts = seen.setdefault(suite, {"prompts": 0, "of": 0})
            counts["prompts"] += split is not None
            counts["of"] += 1
    if headline_suite in {row["prompt"]["suite"] for row in excluded} - {entry.prompt.suite for entry in kept}:
        raise ValueError(
            f"every prompt of the headline's suite {headline_suite} occurs among the captions that the adapter was "
            f"trained on ({captions.source}), so it can show nothing new; choose another evaluation.primary_suite, or "
            "a suite with other wordings"
        )
    return Overlap(prompts=tuple(kept), excluded=tuple(excluded), seen=seen)
