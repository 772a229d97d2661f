"""Noise in the parts of values: where it goes, what it stays, and what a set's shares make of it.

Expected places are by `statistics.NormalDist`, directions by means over rows taken one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import pytest
import torch

from evenhand.data.coupling import siblings
from evenhand.data.encoded import EncodedSet
from evenhand.data.noise_coupling import NoiseCoupling
from evenhand.interfaces import LatentPosterior
from tests.data.synthetic import dealer, synthetic
from tests.data.test_batches import FIELDS

NORMAL = NormalDist()


def of_labels(labels: Sequence[Mapping[str, str]], concepts: Sequence[str] = (), *, seed: int = 0) -> EncodedSet:
    """A synthetic set of rows with these labels, whose latents of 4 x 2 x 2 are drawn, and shifted by their values."""
    generator = torch.Generator().manual_seed(seed)
    concepts = concepts or ["person"] * len(labels)
    drawn = torch.randn((len(labels), 4, 2, 2), generator=generator)
    for row, label in enumerate(labels):
        for place, name in enumerate(sorted(label)):
            drawn[row, place] += 3.0 * (ord(label[name][0]) - ord("a"))
    return dataclasses.replace(
        synthetic(len(labels)),
        posteriors=[LatentPosterior(mean_BCHW=drawn, std_BCHW=torch.zeros_like(drawn))],
        concept_N=concepts,
        labels_N=labels,
        siblings_N=siblings(concepts, [str(sorted(label.items())) for label in labels]),
    )


def one(values: str) -> list[dict[str, str]]:
    return [{"presentation": value} for value in values]


def along(noise_BCHW: torch.Tensor, direction_CHW: torch.Tensor) -> list[float]:
    return (noise_BCHW * direction_CHW).flatten(1).sum(dim=1).tolist()


def noises(count: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn((count, 4, 2, 2), generator=torch.Generator().manual_seed(seed))


def moved(coupling: NoiseCoupling, row: int, noise_BCHW: torch.Tensor) -> torch.Tensor:
    return torch.stack([coupling.moved(noise_CHW, row) for noise_CHW in noise_BCHW])


def test_the_direction_of_two_values_is_the_difference_of_their_means_with_concepts_alike() -> None:
    labels, concepts = one("aabbab" + "ab"), ["nurse"] * 6 + ["pilot"] * 2
    train = of_labels(labels, concepts)
    (direction_CHW,) = NoiseCoupling.of(train).directions[4, 2, 2]
    mean = train.posteriors[0].mean_BCHW
    nurse = (mean[2] + mean[3] + mean[5]) / 3 - (mean[0] + mean[1] + mean[4]) / 3
    pilot = mean[7] - mean[6]
    expected = nurse + pilot
    torch.testing.assert_close(direction_CHW, expected / expected.norm())


def test_noise_keeps_all_but_its_place_along_the_direction_which_goes_to_the_values_part() -> None:
    coupling = NoiseCoupling.of(of_labels(one("ab" * 6)))
    (direction_CHW,) = coupling.directions[4, 2, 2]
    before = noises(200)
    for row, (low, high) in ((0, (0.0, 0.5)), (1, (0.5, 1.0))):
        after = moved(coupling, row, before)
        expected = [NORMAL.inv_cdf(low + (high - low) * NORMAL.cdf(u)) for u in along(before, direction_CHW)]
        assert along(after, direction_CHW) == pytest.approx(expected, abs=1e-4)
        rest = [
            noise - torch.tensor(along(noise, direction_CHW))[:, None, None, None] * direction_CHW
            for noise in (before, after)
        ]
        torch.testing.assert_close(*rest)


def test_over_the_rows_of_a_concept_noise_is_standard_normal_again_and_parts_are_as_long_as_shares() -> None:
    """20 rows at 60, 25 and 15 percent, 400 noises each: mean 0 and variance 1, and each value in its own part."""
    values = "a" * 12 + "b" * 5 + "c" * 3
    coupling = NoiseCoupling.of(of_labels(one(values)))
    (direction_CHW,) = coupling.directions[4, 2, 2]
    found = {row: along(moved(coupling, row, noises(400, seed=row)), direction_CHW) for row in range(len(values))}
    every = torch.tensor([u for row in found.values() for u in row])
    assert every.mean().item() == pytest.approx(0, abs=4 / 8000**0.5)
    assert every.var().item() == pytest.approx(1, abs=4 * (2 / 8000) ** 0.5)
    for value, low, high in (("a", 0, 0.6), ("b", 0.6, 0.85), ("c", 0.85, 1)):
        mass = [NORMAL.cdf(u) for row, row_value in enumerate(values) if row_value == value for u in found[row]]
        assert low - 1e-6 <= min(mass) < low + 0.02
        assert high - 0.02 < max(mass) <= high + 1e-6


def test_values_stand_in_the_order_of_their_pictures_not_of_their_names() -> None:
    """By their means along the axis: a at 0, b at 3 and c at 6 of a channel; with the labels of b and c exchanged."""
    plain, swapped = of_labels(one("abc" * 6)), of_labels(one("abc" * 6))
    exchanged = [{"presentation": {"a": "a", "b": "c", "c": "b"}[row["presentation"]]} for row in swapped.labels_N]
    swapped = dataclasses.replace(swapped, labels_N=exchanged)
    third = 1 / 3
    for train, order in ((plain, "abc"), (swapped, "acb")):
        parts = NoiseCoupling.of(train).parts_N
        for row, labels in enumerate(train.labels_N):
            place = order.index(labels["presentation"])
            assert parts[row] == [pytest.approx((place * third, (place + 1) * third))]


def test_each_concept_has_parts_of_its_own_shares() -> None:
    coupling = NoiseCoupling.of(of_labels(one("aaab" + "abbb"), ["nurse"] * 4 + ["pilot"] * 4))
    assert [parts[0] for parts in coupling.parts_N] == [(0, 0.75)] * 3 + [(0.75, 1)] + [(0, 0.25)] + [(0.25, 1)] * 3


def test_two_attributes_have_orthogonal_directions_and_a_joint_target_holds_over_cells() -> None:
    """8 rows of four cells, (a, a) 3, (a, b) 1, (b, a) 1, (b, b) 3."""
    cells = ["aa"] * 3 + ["ab", "ba"] + ["bb"] * 3
    coupling = NoiseCoupling.of(of_labels([{"presentation": cell[0], "skin": cell[1]} for cell in cells]))
    first, second = coupling.directions[4, 2, 2]
    assert (first * second).sum().item() == pytest.approx(0, abs=1e-6)
    assert first.norm().item() == pytest.approx(1) == pytest.approx(second.norm().item())
    assert coupling.parts_N[0] == [(0, 0.5), (0, 0.75)]
    assert coupling.parts_N[3] == [(0, 0.5), (0.75, 1)]
    assert coupling.parts_N[4] == [(0.5, 1), (0, 0.25)]
    after = moved(coupling, 3, noises(100))
    assert all(u < 0 for u in along(after, first))
    assert all(u > NORMAL.inv_cdf(0.75) - 1e-5 for u in along(after, second))


@pytest.mark.parametrize("labels", [one("aaaa"), [{}] * 4], ids=["one value", "no labels"])
def test_where_there_is_nothing_to_decide_noise_stays_bit_for_bit(labels) -> None:
    coupling, noise = NoiseCoupling.of(of_labels(labels)), noises(1)[0]
    assert coupling.moved(noise, 2) is noise
    both = NoiseCoupling.of(of_labels(one("aab" + "a"), ["nurse"] * 3 + ["pilot"]))
    assert both.moved(noise, 3) is noise  # of this concept there is one value
    assert not both.moved(noise, 2).equal(noise)


def test_concepts_of_one_value_each_have_nothing_to_decide_and_are_no_error() -> None:
    coupling, noise = NoiseCoupling.of(of_labels(one("aabb"), ["nurse"] * 2 + ["pilot"] * 2)), noises(1)[0]
    assert all(coupling.moved(noise, row) is noise for row in range(4))


def test_a_rare_value_of_a_large_set_is_found() -> None:
    """Of 400 rows the last alone is b: its part is the last 400th."""
    coupling = NoiseCoupling.of(of_labels(one("a" * 399 + "b")))
    assert coupling.parts_N[399] == [pytest.approx((399 / 400, 1.0))]
    assert coupling.parts_N[0] == [pytest.approx((0.0, 399 / 400))]


def test_noise_in_the_furthest_tail_stays_finite() -> None:
    coupling = NoiseCoupling.of(of_labels(one("ab" * 6)))
    (direction_CHW,) = coupling.directions[4, 2, 2]
    for row in (0, 1):
        for u in (-12.0, 12.0):
            after = coupling.moved(u * direction_CHW, row)
            assert after.isfinite().all()
            assert after.norm() < 8


def test_values_whose_pictures_are_alike_are_refused() -> None:
    train = of_labels(one("ab" * 2))
    same = torch.ones((4, 4, 2, 2))
    train = dataclasses.replace(train, posteriors=[LatentPosterior(mean_BCHW=same, std_BCHW=same)])
    with pytest.raises(
        ValueError, match=r"pictures of all values of presentation are alike.*method\.coupled_noise=false"
    ):
        NoiseCoupling.of(train)


def test_sizes_have_directions_of_their_own_shape() -> None:
    labels = one("ab" * 6)
    train = synthetic(12, bucket_sizes=(8, 4))
    shifted = [
        dataclasses.replace(
            posterior, mean_BCHW=posterior.mean_BCHW + torch.arange(posterior.mean_BCHW.shape[-1]).float() ** 2
        )
        for posterior in train.posteriors
    ]
    alike = ["square"] * 8 + ["wide"] * 4
    train = dataclasses.replace(
        train,
        posteriors=shifted,
        concept_N=["person"] * 12,
        labels_N=labels,
        siblings_N=siblings(alike, [label["presentation"] for label in labels]),
    )
    coupling = NoiseCoupling.of(train)
    assert {shape: tuple(found.shape) for shape, found in coupling.directions.items()} == {
        (4, 2, 2): (1, 4, 2, 2),
        (4, 2, 3): (1, 4, 2, 3),
    }
    assert coupling.moved(torch.zeros(4, 2, 3), 8).norm().item() == pytest.approx(-NORMAL.inv_cdf(0.25), abs=1e-5)


def test_a_batch_differs_by_its_train_noise_alone_and_only_along_the_direction() -> None:
    train = of_labels(one("ab" * 6))
    coupling = NoiseCoupling.of(train)
    (direction_CHW,) = coupling.directions[4, 2, 2]
    plain = dealer(train, of_labels(one("ab" * 6)), noise_offset=0.1)
    coupled = dataclasses.replace(plain, coupling=coupling)
    sides: set[tuple[str, bool]] = set()
    for step in range(6):
        before, after = plain.at(step), coupled.at(step)
        for name in FIELDS:
            if name != "noise_BCHW" and isinstance(getattr(before, name), torch.Tensor):
                assert torch.equal(getattr(before, name), getattr(after, name)), name
        shift_BCHW = after.noise_BCHW - before.noise_BCHW
        lengths = torch.tensor(along(shift_BCHW, direction_CHW))
        torch.testing.assert_close(shift_BCHW, lengths[:, None, None, None] * direction_CHW, rtol=1e-4, atol=1e-5)
        unshifted = dataclasses.replace(coupled, noise_offset=0.0).at(step)
        sides |= {
            (label["presentation"], u > 0)
            for label, u in zip(unshifted.labels, along(unshifted.noise_BCHW, direction_CHW), strict=True)
        }
    assert sides == {("a", False), ("b", True)}


def test_the_parts_of_a_batch_are_together_the_whole_batch() -> None:
    train = of_labels(one("ab" * 6))
    loader = dataclasses.replace(dealer(train), coupling=NoiseCoupling.of(train), rows_per_noise=2)
    for step in range(4):
        parts = [loader.at(step, part=part, num_parts=2).noise_BCHW for part in range(2)]
        assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), loader.at(step).noise_BCHW)
