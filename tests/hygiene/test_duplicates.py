from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from evenhand.hygiene.duplicates import MAX_DISTANCE, duplicate_groups, near_duplicate_groups
from evenhand.hygiene.perceptual import COLOUR_BYTES, perceptual_hash, same_colours, split
from evenhand.tinytown.world import tinytown

NEAR_BITS = 4


def people(num: int) -> dict[str, Image.Image]:
    """Different pictures of tinytown, drawn and not generated."""
    world = tinytown()
    concepts = world.occupations
    return {
        f"{concepts[seed % len(concepts)]} {seed}": world.render(world.draw(concepts[seed % len(concepts)], seed))
        for seed in range(num)
    }


def grey_numbers(bits: np.ndarray) -> dict[str, int]:
    """Numbers with these 64 bits, all of the same colours."""
    colours = int.from_bytes(bytes([128]) * COLOUR_BYTES, "big") << 64
    return {f"{index:06d}": colours | int(value) for index, value in enumerate(bits)}


def groups_by_comparing_all(phashes: dict[str, int], max_distance: int) -> list[list[str]]:
    """The same answer by the definition: every pair, and joining until nothing changes."""
    group_of = {key: {key} for key in phashes}
    keys = list(phashes)
    bits, colours = split(list(phashes.values()))
    for first, one in enumerate(keys):
        for second in range(first + 1, len(keys)):
            near = (int(bits[first]) ^ int(bits[second])).bit_count() <= max_distance
            if near and same_colours(colours[[first]], colours[[second]])[0]:
                joined = group_of[one] | group_of[keys[second]]
                for key in joined:
                    group_of[key] = joined
    groups = {tuple(sorted(group, key=keys.index)) for group in group_of.values() if len(group) > 1}
    return sorted((list(group) for group in groups), key=lambda group: keys.index(group[0]))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def test_files_with_the_same_bytes_are_in_one_group() -> None:
    assert duplicate_groups({"b": "1", "a": "2", "c": "1", "d": "3", "e": "1"}) == [["b", "c", "e"]]
    assert duplicate_groups({"a": "1", "b": "2"}) == duplicate_groups({}) == []


COPIES = {
    "jpeg 90": lambda image: jpeg(image, 90),
    "jpeg 50": lambda image: jpeg(image, 50),
    "twice as large": lambda image: image.resize((128, 128), Image.Resampling.LANCZOS),
    "smaller": lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_is_found_and_nothing_else(copied: str) -> None:
    originals = people(60)
    phashes = {key: perceptual_hash(image) for key, image in originals.items()}
    assert near_duplicate_groups(phashes, max_distance=NEAR_BITS) == []
    copies = {f"{key}, again": perceptual_hash(COPIES[copied](originals[key])) for key in list(originals)[:20]}
    groups = near_duplicate_groups(phashes | copies, max_distance=NEAR_BITS)
    found = [group for group in groups if len(group) == 2 and group[1] == f"{group[0]}, again"]
    assert len(found) == len(groups)
    assert len(found) >= 19  # of 20


def test_people_who_differ_in_colour_alone_are_different() -> None:
    """Scenes of tinytown, drawn twice with one label changed: by brightness alone some of them are one picture."""
    world = tinytown()
    close = {}
    for seed in range(40):
        scene = world.draw(world.occupations[seed % len(world.occupations)], seed, fixed={"skin": "medium"})
        other = replace(scene, labels={**scene.labels, "skin": "dark"})
        numbers = [perceptual_hash(world.render(each)) for each in (scene, other)]
        bits, _ = split(numbers)
        if int(bits[0] ^ bits[1]).bit_count() <= NEAR_BITS:
            close |= {f"{seed} medium": numbers[0], f"{seed} dark": numbers[1]}
    assert len(close) >= 4
    assert near_duplicate_groups(close, max_distance=NEAR_BITS) == []
    again = {f"{key} again": number for key, number in close.items()}
    assert len(near_duplicate_groups(close | again, max_distance=NEAR_BITS)) == len(close)


def test_plain_pages_of_two_greys_are_different() -> None:
    pages = {str(level): perceptual_hash(Image.new("RGB", (64, 64), (level,) * 3)) for level in (60, 64, 120, 240)}
    assert near_duplicate_groups(pages, max_distance=MAX_DISTANCE) == [["60", "64"]]


@pytest.mark.parametrize("max_distance", [0, 1, 3, 4, 8, 16])
def test_the_bands_miss_no_pair(max_distance: int) -> None:
    """300 numbers in clumps, so that there are pairs at every distance, against every pair compared."""
    rng = np.random.default_rng(max_distance)
    centres = rng.integers(0, 2**63, size=40, dtype=np.uint64)
    bits = centres[rng.integers(0, 40, size=300)]
    for index in range(300):
        for bit in rng.integers(0, 64, size=int(rng.integers(0, max_distance + 4))):
            bits[index] ^= np.uint64(1) << np.uint64(bit)
    phashes = grey_numbers(bits)
    for key in list(phashes)[::5]:
        phashes[key] ^= 0xFF << (64 + 8 * 50)  # one cell of another colour
    expected = groups_by_comparing_all(phashes, max_distance)
    assert near_duplicate_groups(phashes, max_distance=max_distance) == expected
    assert expected


def test_a_chain_is_one_group_in_the_order_of_the_keys() -> None:
    phashes = grey_numbers(np.array([0b1111, 0, 0b11, 0b1110011], dtype=np.uint64))
    assert near_duplicate_groups(phashes, max_distance=2) == [["000000", "000001", "000002"]]
    assert near_duplicate_groups(phashes, max_distance=1) == []
    assert near_duplicate_groups(phashes, max_distance=3) == [["000000", "000001", "000002", "000003"]]
    assert near_duplicate_groups({}, max_distance=2) == near_duplicate_groups({"a": 1}, max_distance=2) == []


@pytest.mark.parametrize("max_distance", [-1, MAX_DISTANCE + 1])
def test_a_distance_that_means_nothing_is_refused(max_distance: int) -> None:
    with pytest.raises(ValueError, match=f"got {max_distance}"):
        near_duplicate_groups({}, max_distance=max_distance)


def test_a_hundred_thousand_pictures_take_seconds() -> None:
    """About half a second of work on one core; the bound is for slow machines. 50 copies are hidden among them."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, size=100_000, dtype=np.uint64)
    copies = bits[:50] ^ (np.uint64(1) << rng.integers(0, 64, size=50, dtype=np.uint64))
    phashes = grey_numbers(np.concatenate([bits, copies]))
    started = time.process_time()
    groups = near_duplicate_groups(phashes, max_distance=NEAR_BITS)
    assert groups == [[f"{index:06d}", f"{100_000 + index:06d}"] for index in range(50)]
    assert time.process_time() - started < 10
