"""Other captions for the rows of a set, from a set of captions alone: wordings and concepts that have no pictures.

Where a method learns an explicit caption's answer under the neutral one, the base answers for any such pair (n', n'+v):
a row's noisy picture ``x_t`` serves for every pair that names the row's values v,

    |e_a(x_t, n') - e_0(x_t, n'+v)|^2,    least at    e_a(x_t, n') = sum_v p(v | x_t) e_0(x_t, n'+v).

Of the row's own caption nothing is left in it but p(v | x_t), the chances of the values for the pictures of the set.
``across: wordings`` takes pairs of the row's concept, whose pictures are alike. ``across: concepts`` takes those of any
concept: for ``x_t`` so noisy that no concept shows yet the chances are alike too; clearer ones are pictures that n'
would not give, so draw noisy timesteps (``timesteps=noisy``). The values keep the shares that the set gives them, so
its concepts and the others must have one target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from evenhand.files import read_jsonl, sha256_json
from evenhand.interfaces import Base
from evenhand.records import Example
from evenhand.seeds import derive

CAPTIONS_NAME = "captions.jsonl"
ACROSS = ("wordings", "concepts")


class CaptionPair(NamedTuple):
    """A neutral caption of a concept, and the same with values named."""

    text: str
    explicit: str
    concept: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """The pairs that may take the place of each row's own captions, none for some, and how often one does."""

    share: float
    pairs_N: Sequence[tuple[CaptionPair, ...]]

    def draw(self, row: int, *, seed: int) -> CaptionPair | None:
        """The pair that takes the place of the row's own, or None where that stays: a function of the row's seed."""
        import torch

        if not self.pairs_N[row]:
            return None
        generator = torch.Generator().manual_seed(derive(seed, "augmentation"))
        whether, which = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        return self.pairs_N[row][int(which * len(self.pairs_N[row]))] if whether < self.share else None

    def pairs(self) -> list[CaptionPair]:
        """Every pair that some row may get, once, in order."""
        return sorted({pair for pairs in set(self.pairs_N) for pair in pairs})


class CaptionAugmentation:
    """See the file's head. ``captions`` is the folder of a set that ``recipe=captions_only`` built.

    ``share`` is that of the rows whose two captions are replaced. Captions that ``train.caption_dropout`` empties stay
    empty; of the others, own or replaced, a method may replace the concept by a virtual one.
    """

    def __init__(self, *, captions: Path, share: float, across: Literal["wordings", "concepts"]) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share} (augmentation.share)")
        if across not in ACROSS:
            raise ValueError(f"across must be one of {', '.join(ACROSS)}, got {across!r} (augmentation.across)")
        self.captions = captions
        self.share = share
        self.across = across

    @property
    def file(self) -> Path:
        """Where the captions stand."""
        return self.captions / "train" / CAPTIONS_NAME

    def alternatives(self, examples: Sequence[Example]) -> Alternatives:
        """The pairs for each row of a set; ValueError for a caption that is no pair, and where no row has any."""
        found: dict[str, dict[CaptionPair, None]] = {}
        for pair, labels in self._read():
            found.setdefault(self._key(pair.concept, labels), {})[pair] = None
        pairs = {key: tuple(group) for key, group in found.items()}
        pairs_N = [pairs.get(self._key(example.concept, example.labels), ()) for example in examples]
        if not any(pairs_N):
            of_concept = self.across == "wordings"
            cure = " and concepts, or choose augmentation.across=concepts" if of_concept else ""
            raise ValueError(
                f"{self.file}: no caption has the {'concept and ' if of_concept else ''}values of any row of the set "
                f"(of the first: {examples[0].concept}, {dict(examples[0].labels)}); build it with the set's "
                f"attributes{cure}"
            )
        return Alternatives(share=self.share, pairs_N=pairs_N)

    def check(self, examples: Sequence[Example], *, base: Base) -> None:
        """Raise ValueError where no row has other captions, and for one that the base would cut off."""
        pairs = self.alternatives(examples).pairs()
        base.check_captions(sorted({caption for pair in pairs for caption in pair[:2]}), where=str(self.file))

    def _read(self) -> Iterator[tuple[CaptionPair, Mapping[str, str]]]:
        """Each pair of the file with the values that it names."""
        if not self.file.is_file():
            raise ValueError(
                f"{self.captions} has no train/{CAPTIONS_NAME}: build captions with data_recipes/build.py "
                "recipe=captions_only (augmentation.captions)"
            )
        for number, row in enumerate(read_jsonl(self.file), start=1):
            where = f"{self.file} line {number}"
            for column in CaptionPair._fields:
                if not isinstance(row.get(column), str) or not row[column].strip():
                    raise ValueError(f"{where}: {column} must be text, got {row.get(column)!r}")
            if not isinstance(row.get("labels"), dict):
                raise ValueError(f"{where}: labels must map attributes to values, got {row.get('labels')!r}")
            yield CaptionPair(row["text"], row["explicit"], row["concept"]), row["labels"]

    def _key(self, concept: str, labels: Mapping[str, str]) -> str:
        """What a row and a pair that fits it have in common."""
        return sha256_json([concept if self.across == "wordings" else "", labels])


def no_augmentation() -> None:
    """Every row keeps its own captions."""
