"""Noise coupled with values: which value a train row has says in which part of the noise it is made noisy.

With noise independent of images, a prompt's shares hang on how its words lean, and an adapter must know every word to
set it right. Here each attribute has a direction d in the space of latents, of length 1, along which noise is standard
normal, and each value v of a concept a part [a_v, b_v) of that normal's mass, as long as its share pi_v among the
concept's rows. A row of value v keeps its noise e but for its place along d, which is squeezed into the value's part:

    u = <e, d>,    e' = e + (u' - u) d,    u' = Phi^-1(a_v + (b_v - a_v) Phi(u))

Over the rows of a concept, e' is standard normal again, and what is learned from it is that noise decides: a sampler
that begins with u in [a_v, b_v) ends at v, whatever the word. The shares are those of the parts, for words that were
never seen as well, and a word's lean moves them only as far as the decision is soft. Data-dependent couplings: Albergo
et al. 2023, "Stochastic interpolants with data-dependent couplings"; that initial noise steers content: e.g. Guttenberg
2023, "Diffusion with offset noise".

The direction is the one along which the base's own decisions lean already: the first principal axis of the values' mean
latents, concepts weighing alike, which for two values is their difference; its values stand in the order of their means
along it. Several attributes have orthogonal directions, and the parts of a later one are of its shares among rows with
the same values of the former ones, so a joint target over cells holds. A seed then shows the same value under most
prompts; over seeds, shares are the target's.

Letters: N rows, A attributes, K values, C channels, H height, W width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenhand.data.encoded import EncodedSet

if TYPE_CHECKING:
    import torch

MOST_OF_A_KIND = 64  # rows of a concept with the same values, for a mean
ROWS_TOGETHER = 64
FURTHEST = 1e-12  # of the mass, from either end: the normal's quantile is infinite there

EVERYTHING = (0.0, 1.0)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseCoupling:
    """See the file's head. ``directions`` are by the shape of latents, float32, ``parts_N`` by row, one per attribute.

    An attribute that has one value only has no part in this.
    """

    directions: Mapping[Shape, torch.Tensor]
    parts_N: Sequence[Sequence[tuple[float, float]]]

    @classmethod
    def of(cls, encoded: EncodedSet) -> NoiseCoupling:
        """The coupling of a set's train rows; ValueError where the values of an attribute look exactly alike."""
        directions: dict[Shape, torch.Tensor] = {}
        parts_N: list[Sequence[tuple[float, float]]] = [()] * len(encoded)
        varying = _varying(encoded.labels_N)
        for bucket in encoded.buckets if varying else ():
            means = _means(encoded, bucket, varying)
            shape = next(iter(means.values())).shape
            found, orders = _axes(means, varying)
            directions[tuple(shape)] = found
            known: dict[tuple[object, ...], Sequence[tuple[float, float]]] = {}
            for row in bucket:
                kind = encoded.siblings_N[row][0], *(encoded.labels_N[row][name] for name in varying)
                if kind not in known:
                    known[kind] = _parts(encoded, row, varying, orders)
                    _check(known[kind], found, varying)
                parts_N[row] = known[kind]
        return cls(directions=directions, parts_N=parts_N)

    def moved(self, noise_CHW: torch.Tensor, row: int) -> torch.Tensor:
        """The noise of a row, in the parts of its values."""
        import torch

        for place, (low, high) in enumerate(self.parts_N[row]):
            if (low, high) == EVERYTHING:
                continue
            direction_CHW = self.directions[tuple(noise_CHW.shape)][place]
            u = (noise_CHW * direction_CHW).sum().double()
            mass = (low + (high - low) * torch.special.ndtr(u)).clamp(FURTHEST, 1 - FURTHEST)
            noise_CHW = noise_CHW + (torch.special.ndtri(mass) - u).to(noise_CHW) * direction_CHW
        return noise_CHW


def _varying(labels_N: Sequence[Mapping[str, str]]) -> list[str]:
    """The attributes that have several values, by name."""
    values: dict[str, set[str]] = {}
    for labels in labels_N:
        for name, value in labels.items():
            values.setdefault(name, set()).add(value)
    return sorted(name for name, found in values.items() if len(found) > 1)


def _means(
    encoded: EncodedSet, bucket: Sequence[int], attributes: Sequence[str]
) -> dict[tuple[str, str, str], torch.Tensor]:
    """The mean latents of a size's rows by attribute, concept and value, in float64."""
    used, met = [], Counter[tuple[str, ...]]()
    for row in bucket:
        kind = encoded.concept_N[row], *(encoded.labels_N[row][name] for name in attributes)
        met[kind] += 1
        if met[kind] <= MOST_OF_A_KIND:
            used.append(row)
    sums: dict[tuple[str, str, str], torch.Tensor] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for first in range(0, len(used), ROWS_TOGETHER):
        rows = used[first : first + ROWS_TOGETHER]
        for row, mean_CHW in zip(rows, encoded.posterior(rows).mean_BCHW.double(), strict=True):
            for name in attributes:
                key = name, encoded.concept_N[row], encoded.labels_N[row][name]
                sums[key] = sums[key] + mean_CHW if key in sums else mean_CHW.clone()
                counts[key] += 1
    return {key: total / counts[key] for key, total in sums.items()}


def _axes(
    means: Mapping[tuple[str, str, str], torch.Tensor], attributes: Sequence[str]
) -> tuple[torch.Tensor, list[list[str]]]:
    """Each attribute's direction, orthonormal, as (A, C, H, W), and its values in their order along it.

    The direction of an attribute whose values have the same means is 0.
    """
    import torch

    directions: list[torch.Tensor] = []
    orders = []
    for name in attributes:
        values = sorted({value for attribute, _, value in means if attribute == name})
        offsets_KCHW = torch.stack([_offset(means, name, value) for value in values])
        flat_KD = offsets_KCHW.flatten(1)
        for other in directions:
            flat_KD = flat_KD - (flat_KD @ other.flatten())[:, None] * other.flatten()
        length = flat_KD.norm()
        # a length of 0 has no direction: of no concept there are two values, or they look alike
        axis_D = torch.linalg.svd(flat_KD / length, full_matrices=False)[2][0] if length > 0 else flat_KD[0]
        along_K = flat_KD @ axis_D
        if along_K[0] > along_K[-1]:
            axis_D, along_K = -axis_D, -along_K
        directions.append(axis_D.reshape(offsets_KCHW.shape[1:]))
        orders.append([values[place] for place in torch.argsort(along_K).tolist()])
    return torch.stack(directions).float(), orders


def _offset(means: Mapping[tuple[str, str, str], torch.Tensor], name: str, value: str) -> torch.Tensor:
    """How far a value's mean is from that of its concept's values, the mean over concepts that have it."""
    import torch

    offsets = []
    for (attribute, concept, own), mean_CHW in means.items():
        if (attribute, own) == (name, value):
            every = [mean for (a, c, _), mean in means.items() if (a, c) == (name, concept)]
            offsets.append(mean_CHW - torch.stack(every).mean(dim=0))
    return torch.stack(offsets).mean(dim=0)


def _parts(
    encoded: EncodedSet, row: int, attributes: Sequence[str], orders: Sequence[Sequence[str]]
) -> list[tuple[float, float]]:
    """The part of each attribute's normal that a row has, from the shares among its siblings."""
    alike = list(encoded.siblings_N[row])
    parts = []
    for name, order in zip(attributes, orders, strict=True):
        own = encoded.labels_N[row][name]
        counts = Counter(encoded.labels_N[sibling][name] for sibling in alike)
        below = sum(counts[value] for value in order[: order.index(own)])
        parts.append((below / len(alike), (below + counts[own]) / len(alike)))
        alike = [sibling for sibling in alike if encoded.labels_N[sibling][name] == own]
    return parts


def _check(parts: Sequence[tuple[float, float]], directions_ACHW: torch.Tensor, attributes: Sequence[str]) -> None:
    for name, part, direction_CHW in zip(attributes, parts, directions_ACHW, strict=True):
        if part != EVERYTHING and not direction_CHW.any():
            raise ValueError(
                f"the pictures of all values of {name} are alike, so noise cannot decide between them: set "
                "method.coupled_noise=false"
            )
