"""Pictures that are the same, or nearly: in groups, fast for hundreds of thousands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from evenhand.hygiene.perceptual import BITS, same_colours, split

MAX_DISTANCE = 16  # of 64 bits; those of pictures that have nothing in common differ in 32, give or take 4
PAIRS_AT_ONCE = 50_000  # whose colours are compared: 80 MB

Pairs = npt.NDArray[np.int64]  # two columns of positions


def duplicate_groups(hashes: Mapping[str, str]) -> list[list[str]]:
    """The keys that share a hash, in groups of two or more, in the order of the mapping."""
    by_hash: dict[str, list[str]] = {}
    for key, digest in hashes.items():
        by_hash.setdefault(digest, []).append(key)
    return [keys for keys in by_hash.values() if len(keys) > 1]


def near_duplicate_groups(phashes: Mapping[str, int], *, max_distance: int) -> list[list[str]]:
    """The keys of pictures that look the same, in groups of two or more, in the order of the mapping.

    ``phashes`` are of ``perceptual_hash``. Two pictures look the same when their hashes differ in ``max_distance`` of
    64 bits or fewer, and their colours do not differ (``same_colours``). Groups are chains: of three pictures, the
    first may be near the second and the second near the third, and the first not near the third.

    Exact for every distance: two hashes that differ in d bits agree in one of d + 1 bands of bits, so only those that
    share a band are compared.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance must be between 0 and {MAX_DISTANCE} bits, got {max_distance}")
    keys_of: dict[int, list[int]] = {}
    for position, value in enumerate(phashes.values()):
        keys_of.setdefault(value, []).append(position)
    bits, colours = split(list(keys_of))
    near = [
        pairs[same_colours(colours[pairs[:, 0]], colours[pairs[:, 1]])] for pairs in _candidates(bits, max_distance)
    ]
    keys, positions = list(phashes), list(keys_of.values())
    groups = [
        sorted(position for member in members for position in positions[member])
        for members in _connected(len(bits), near)
    ]
    return [[keys[position] for position in group] for group in sorted(groups) if len(group) > 1]


def _candidates(bits: npt.NDArray[np.uint64], max_distance: int) -> Iterator[Pairs]:
    """Every pair of hashes that differ in ``max_distance`` bits or fewer, once, in parts."""
    edges = [round(BITS * index / (max_distance + 1)) for index in range(max_distance + 2)]
    masks = [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]
    for number, mask in enumerate(masks):
        for pairs, different in _sharing(bits, mask, max_distance):
            # A pair that shares an earlier band too was found there.
            again = np.zeros(len(pairs), dtype=np.bool_)
            for earlier in masks[:number]:
                again |= (different & earlier) == 0
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                part = slice(start, start + PAIRS_AT_ONCE)
                yield pairs[part][~again[part]]


def _sharing(
    bits: npt.NDArray[np.uint64], mask: np.uint64, max_distance: int
) -> Iterator[tuple[Pairs, npt.NDArray[np.uint64]]]:
    """Pairs that agree in a band and are near, with the bits in which they differ.

    Sorted by the band, those that share it stand together: each is compared with the next, then with the one after.
    """
    order = np.argsort(bits & mask, kind="stable")
    sorted_bits = bits[order]
    band = sorted_bits & mask
    first = np.arange(len(order))
    step = 0
    while len(first):
        step += 1
        first = first[first + step < len(order)]
        first = first[band[first] == band[first + step]]
        different = sorted_bits[first] ^ sorted_bits[first + step]
        near = np.bitwise_count(different) <= max_distance
        if near.any():
            yield np.stack([order[first[near]], order[first[near] + step]], axis=1), different[near]


def _connected(number: int, near: Sequence[Pairs]) -> list[list[int]]:
    """All of ``number`` positions, those that pairs join in one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not number:
        return []
    pairs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *near])
    joined = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(number, number))
    _, labels = connected_components(joined, directed=False)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return [part.tolist() for part in np.split(order, starts[1:])]
