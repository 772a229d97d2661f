"""Rows of one concept that share their noise, from rows whose numbers, concepts and values are known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from evenhand.data.batches import Batches
from evenhand.data.coupling import siblings, systematic
from evenhand.data.encoded import EncodedSet, encode_set
from evenhand.data.rows import read_split
from evenhand.files import read_jsonl, write_jsonl_atomic
from tests.data.synthetic import dealer, rows_of, synthetic
from tests.data.test_batches import FIELDS, numbers
from tests.data.test_encoded import WIDE, of_many_forms
from tests.tiny_set import IMAGES, tiny_set


def of_values(values: Sequence[str], concepts: Sequence[str] = (), *, bucket_sizes: Sequence[int] = ()) -> EncodedSet:
    """A synthetic set of rows with these values, of one concept or of these, each size a group of its own."""
    concepts = concepts or ["person"] * len(values)
    plain = synthetic(len(values), bucket_sizes=bucket_sizes)
    size = {row: number for number, rows in enumerate(plain.buckets) for row in rows}
    alike = [f"{concept} {size[row]}" for row, concept in enumerate(concepts)]
    return dataclasses.replace(plain, concept_N=concepts, siblings_N=siblings(alike, values))


def sharing(train: EncodedSet, rows_per_noise: int, **changes) -> Batches:
    return dataclasses.replace(dealer(train, **changes), rows_per_noise=rows_per_noise)


def groups(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[at : at + size]) for at in range(0, len(rows), size)]


@pytest.mark.parametrize(("num_rows", "count"), [(6, 2), (5, 4), (7, 3), (2, 4), (1, 4)])
def test_over_all_offsets_each_sibling_comes_equally_often(num_rows, count) -> None:
    rows, offsets = range(10, 10 + num_rows), [(number + 0.5) / 420 for number in range(420)]
    found = Counter(
        systematic(rows, count=count, place=place, offset=offset) for offset in offsets for place in range(count)
    )
    assert found == dict.fromkeys(rows, 420 * count // num_rows)


def test_without_an_offset_some_siblings_would_never_come_and_an_offset_of_one_is_still_in_the_list() -> None:
    assert {systematic(range(6), count=2, place=place, offset=0.0) for place in range(2)} == {0, 3}
    assert systematic(range(6), count=2, place=1, offset=1.0) == 5


def test_siblings_are_the_rows_of_a_group_in_the_order_of_their_labels() -> None:
    assert siblings(["x", "y", "x", "x"], ["man", "man", "woman", "man"]) == ((0, 3, 2), (1,), (0, 3, 2), (0, 3, 2))


@pytest.mark.parametrize("rows_per_noise", [1, 2, 4])
def test_a_row_is_drawn_as_often_with_as_without(rows_per_noise) -> None:
    """Two concepts of 7 and 5 rows, one with unequal values: 800 steps of 8 rows are 533 of each."""
    train = of_values([*"aaaabbc", *"ababa"], ["one"] * 7 + ["two"] * 5)
    loader = sharing(train, rows_per_noise)
    found = Counter(row for step in range(800) for row in rows_of(loader.at(step).latents_BCHW))
    assert sorted(found) == list(range(12))
    assert max(abs(found[row] - 800 * 8 / 12) for row in found) < 4 * (533 * rows_per_noise) ** 0.5


def test_rows_of_a_group_share_noise_timestep_and_whether_their_caption_is_dropped() -> None:
    loader = sharing(of_values([*"abababababab"]), 4, dropout=0.5)
    drops = set()
    for step in range(12):
        batch = loader.at(step)
        for at in (0, 4):
            here = slice(at, at + 4)
            assert all(noise.equal(batch.noise_BCHW[at]) for noise in batch.noise_BCHW[here])
            assert len(set(batch.timesteps_B[here].tolist())) == 1
            dropped = [number == 0 for number in numbers(batch.text)[here]]
            assert len(set(dropped)) == 1
            drops.add(dropped[0])
        assert not batch.noise_BCHW[0].equal(batch.noise_BCHW[4])
        assert [int(timestep) // 500 for timestep in batch.timesteps_B[::4]] == [0, 1]  # stratified over the groups
    assert drops == {True, False}
    alone = sharing(of_values([*"abababababab"]), 1).at(0)
    assert len({noise.sum().item() for noise in alone.noise_BCHW}) == 8
    assert len(set(alone.timesteps_B.tolist())) == 8


@pytest.mark.parametrize("values", ["ab", "abc", "abcdef"])
def test_groups_of_as_many_rows_as_equal_values_have_each_value_once(values) -> None:
    train, count = of_values([*values * 4]), len(values)
    found = {True: 0, False: 0}
    for rows_per_noise in (count, 1):
        loader = sharing(train, rows_per_noise, batch_size=2 * count)
        for step in range(20):
            for group in groups(rows_of(loader.at(step).latents_BCHW), count):
                found[rows_per_noise == count] += len({values[row % count] for row in group}) == count
    assert found[True] == 40
    assert found[False] < 40  # left to chance, some lack a value


def test_groups_of_four_have_60_25_and_15_percent_on_average_and_are_never_further_off_than_one_row() -> None:
    values = "a" * 12 + "b" * 5 + "c" * 3
    loader = sharing(of_values([*values]), 4)
    found = [
        Counter(values[row] for row in group)
        for step in range(300)
        for group in groups(rows_of(loader.at(step).latents_BCHW), 4)
    ]
    assert {group["a"] for group in found} == {2, 3}
    assert {group["b"] for group in found} == {1}
    assert {group["c"] for group in found} == {0, 1}
    mean = sum(group["a"] for group in found) / len(found)
    assert mean == pytest.approx(2.4, abs=4 * (0.24 / 600) ** 0.5)  # 2 or 3, with a variance of 0.4 times 0.6
    alone = sharing(of_values([*values]), 1)
    rows = [rows_of(alone.at(step).latents_BCHW) for step in range(100)]
    assert {Counter(values[row] for row in group[:4])["b"] for group in rows} > {0, 1, 2}


def test_rows_of_other_concepts_or_sizes_are_never_in_a_group() -> None:
    concepts = ["one", "two"] * 6
    loader = sharing(of_values([*"aabb"] * 3, concepts, bucket_sizes=(6, 4, 2)), 2)
    met = set()
    for step in range(40):
        batch = loader.at(step)
        for group in groups(rows_of(batch.latents_BCHW), 2):
            assert len({concepts[row] for row in group}) == 1
            met |= {tuple(sorted(group))} if group[0] != group[1] else set()
    assert len(met) > 4
    assert all(bucket in ((0, 0), (1, 1), (2, 2)) for bucket in (tuple(_size(row) for row in pair) for pair in met))


def _size(row: int) -> int:
    return 0 if row < 6 else 1 if row < 10 else 2


@pytest.mark.parametrize("num_parts", [2, 4])
def test_the_parts_of_a_batch_are_together_the_whole_batch(num_parts) -> None:
    loader = sharing(of_values([*"abababababab"]), 4, dropout=0.3, noise_offset=0.1)
    for step in range(4):
        whole = loader.at(step)
        parts = [loader.at(step, part=part, num_parts=num_parts) for part in range(num_parts)]
        for name in FIELDS[:4]:
            woven = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            assert torch.equal(woven, getattr(whole, name)), name
        woven = torch.stack([part.text.hidden_BLD for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(woven, whole.text.hidden_BLD)


def test_one_row_per_noise_is_the_batch_without_any_groups_bit_for_bit() -> None:
    """tests/data/test_batches.py holds that batch to a file that an older loader wrote."""
    plain, one, two = dealer(synthetic()), sharing(of_values([*"ab"] * 6), 1), sharing(of_values([*"ab"] * 6), 2)
    for step in range(5):
        for name in FIELDS[:4]:
            assert torch.equal(getattr(plain.at(step), name), getattr(one.at(step), name))
        assert plain.at(step).row_seeds == one.at(step).row_seeds == two.at(step).row_seeds
        assert not torch.equal(plain.at(step).noise_BCHW, two.at(step).noise_BCHW)


def test_preserve_rows_share_nothing() -> None:
    kept = dataclasses.replace(
        sharing(of_values([*"ab"] * 6), 4), preserve=of_values([*"ab"] * 6), preserve_batch_size=4
    )
    plain = dataclasses.replace(kept, rows_per_noise=1)
    assert torch.equal(kept.at(3).preserve_noise_BCHW, plain.at(3).preserve_noise_BCHW)
    assert torch.equal(kept.at(3).preserve_latents_BCHW, plain.at(3).preserve_latents_BCHW)


def test_rows_of_one_value_share_noise_over_different_images_and_a_lone_row_shares_it_with_itself() -> None:
    batch = sharing(of_values(["a"] * 12), 4).at(0)
    assert [len(set(group)) for group in groups(rows_of(batch.latents_BCHW), 4)] == [4, 4]
    alone = sharing(of_values(["a"] * 12, [str(number) for number in range(12)]), 4).at(0)
    assert [len(set(group)) for group in groups(rows_of(alone.latents_BCHW), 4)] == [1, 1]


def test_siblings_of_a_set_on_disk_have_one_concept_and_one_size(sd, tmp_path) -> None:
    """Rows 0 to 3 are mechanics, then nurses and doctors, women first; 0 to 4 are squares, 5 to 8 lying."""
    split = read_split(of_many_forms(tmp_path / "set"), "train")
    found = encode_set(sd, split, images=WIDE, cache_folder=tmp_path / "cache").siblings_N
    assert found[:4] == ((1, 3, 0, 2),) * 4
    assert found[4] == (4,)
    assert found[5:8] == ((5, 7, 6),) * 3
    assert found[8] == (8,)
    assert found[9:] == ((9, 11, 10),) * 3


def test_of_two_labels_the_first_by_name_is_spread_over_a_pair(sd, tmp_path) -> None:
    folder = tiny_set(tmp_path / "set")
    path = folder / "train" / "metadata.jsonl"
    skins = ("dark", "light", "light", "dark") * 3
    rows = [
        {**row, "labels": {"skin": skin, **row["labels"]}} for row, skin in zip(read_jsonl(path), skins, strict=True)
    ]
    write_jsonl_atomic(path, rows)
    encoded = encode_set(sd, read_split(folder, "train"), images=IMAGES, cache_folder=tmp_path / "cache")
    assert encoded.siblings_N[0] == (3, 1, 0, 2)  # men first, dark ones before light ones
    for offset in (0.0, 0.3, 0.9):
        pair = [systematic(encoded.siblings_N[0], count=2, place=place, offset=offset) for place in range(2)]
        assert [rows[row]["labels"]["presentation"] for row in pair] == ["man", "woman"]
