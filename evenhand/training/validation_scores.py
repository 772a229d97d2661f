"""What a reader saw of a validation's images, and the one number by which checkpoints are compared.

Letters: N images, K values of the attribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evenhand.records import ANY_CONCEPT, Attribute, Prompt, SubjectReading, Target

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the reader saw in one set of images. None is what could not be told.

    ``shares`` and ``distance_sq`` are means over the neutral prompts: the share of each value, and the unbiased squared
    distance to the target, with its standard error over the prompts. ``unread`` is the share of neutral images in which
    nothing was read. ``shown`` is the share of subjects that show the value which their prompt states, an unread one
    not among them; None without such prompts.
    """

    shares: Mapping[str, float] | None
    distance_sq: float | None
    standard_error: float | None
    shown: float | None
    unread: float
    num_images: int
    num_unread: int

    def metrics(self) -> dict[str, float]:
        """The numbers for a tracker."""
        shares = {f"share:{value}": share for value, share in (self.shares or {}).items()}
        others = {"distance_sq": self.distance_sq, "shown": self.shown, "unread": self.unread}
        return {**shares, **{name: value for name, value in others.items() if value is not None}}


class Score(Protocol):
    """Makes one number of what was seen, higher is better; ``base`` is what was seen of the base without adapter."""

    def of(self, seen: Seen, base: Seen) -> float | None:
        """The score; None where it cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScore:
    """Minus the squared distance to the target, minus penalties for what the base could do and the adapter cannot.

    ``obedience_weight`` times the fall of ``shown``, ``unread_weight`` times the rise of ``unread``. With two values,
    shares of 0.75 and 0.25 are a squared distance of 0.125 from even, and shares of 1 and 0 are one of 0.5.
    """

    obedience_weight: float
    unread_weight: float

    def __post_init__(self) -> None:
        for name in ("obedience_weight", "unread_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    def of(self, seen: Seen, base: Seen) -> float | None:
        """The score; None where no neutral prompt has two images that were read."""
        if seen.distance_sq is None:
            return None
        lost = 0.0 if seen.shown is None or base.shown is None else max(0.0, base.shown - seen.shown)
        vanished = max(0.0, seen.unread - base.unread)
        return -seen.distance_sq - self.obedience_weight * lost - self.unread_weight * vanished


def count(readings: Sequence[SubjectReading], attribute: Attribute) -> list[int]:
    """How many subjects of one image show each value, and, last, how many subjects there are."""
    own = [reading.value for reading in readings if reading.attribute == attribute.name]
    return [*(own.count(value) for value in attribute.values), len(own)]


def see(
    prompts: Sequence[Prompt],
    rows_N: Sequence[int],
    counts_NK1: Counts,
    *,
    attribute: Attribute,
    targets: Sequence[Target],
) -> Seen:
    """What was seen in N images, of which ``rows_N`` says the prompt and ``counts_NK1`` what :func:`count` gives."""
    from evenhand.stats.distances import distance_sq  # SciPy: most of the start of a program that only trains

    shares, distances, shown = [], [], []
    unread_N = counts_NK1[:, :-1].sum(axis=1) == 0
    num_neutral = num_neutral_unread = 0
    for row, prompt in enumerate(prompts):
        of_prompt = np.asarray(rows_N) == row
        counts = counts_NK1[of_prompt].astype(np.float64)
        stated = (prompt.expects or {}).get(attribute.name)
        if stated is not None:
            shown += list(counts[:, attribute.values.index(stated)] / np.maximum(counts[:, -1], 1.0))
            continue
        num_neutral += len(counts)
        num_neutral_unread += int(unread_N[of_prompt].sum())
        read = counts[counts[:, :-1].sum(axis=1) > 0, :-1]
        images_NK = read / read.sum(axis=1, keepdims=True)
        target = wanted(targets, prompt.concept)
        distance = distance_sq(images_NK, np.array(target)) if target else math.nan
        if not math.isnan(distance):
            shares.append(images_NK.mean(axis=0))
            distances.append(distance)
    means = dict(zip(attribute.values, np.mean(shares, axis=0).tolist(), strict=True)) if shares else None
    return Seen(
        shares=means,
        distance_sq=float(np.mean(distances)) if distances else None,
        standard_error=float(np.std(distances, ddof=1) / math.sqrt(len(distances))) if len(distances) > 1 else None,
        shown=float(np.mean(shown)) if shown else None,
        unread=num_neutral_unread / num_neutral,
        num_images=len(rows_N),
        num_unread=int(unread_N.sum()),
    )


def wanted(targets: Sequence[Target], concept: str) -> tuple[float, ...]:
    """The target of a concept: its own row, else that of all concepts; ValueError where there is neither.

    Empty where the concept is to stay as the base has it: it has no part in shares and distance.
    """
    rows = {target.concept: target.shares for target in targets}
    shares = rows.get(concept, rows.get(ANY_CONCEPT))
    if shares is None:
        raise ValueError(f"no target for the concept {concept!r}; there are targets for {', '.join(rows) or 'none'}")
    return shares
