"""Rows of another value: which, how often, and what they make of a concept's teachers.

Means are taken over all draws, with a number in the place of each value's teacher.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from evenhand.data.augmentation import Alternatives, CaptionPair
from evenhand.data.batches import Batches, VirtualConcepts
from evenhand.data.contrast import Contrasts
from evenhand.data.coupling import siblings
from evenhand.data.encoded import EncodedSet
from evenhand.interfaces import TextEmbedding
from evenhand.seeds import derive
from tests.data.synthetic import dealer, rows_of, synthetic
from tests.data.test_virtual_concepts import LEAST, Words

TEACHERS = {"a": 1.0, "b": 4.0, "c": -2.0}
DRAWS = 600


def of_values(values: str, *, wordings: Sequence[str] = ("",), concepts: Sequence[str] = ()) -> EncodedSet:
    """Rows with these values, whose wordings come in turns; an explicit caption is wording and value."""
    concepts = concepts or ["person"] * len(values)
    captions = [wordings[row % len(wordings)] for row in range(len(values))]
    explicit = [f"{caption} {value}" for caption, value in zip(captions, values, strict=True)]
    names = sorted({*captions, *explicit})
    hidden = torch.arange(float(len(names))).view(-1, 1, 1).expand(-1, 2, 3).contiguous()
    return dataclasses.replace(
        synthetic(len(values)),
        texts=[TextEmbedding(hidden_BLD=hidden)],
        place_U={name: (0, place) for place, name in enumerate(names)},
        caption_N=captions,
        explicit_N=explicit,
        concept_N=concepts,
        labels_N=[{"presentation": value} for value in values],
        siblings_N=siblings(concepts, list(values)),
    )


@pytest.mark.parametrize("values", ["aabb", "aaab", "aabbbbcc", "a" * 12 + "b" * 5 + "c" * 3])
def test_teachers_move_away_from_their_mean_which_stays(values: str) -> None:
    """With c = 1.5: on average M + 2.5 (T - M) for each value, and M over the rows; M by hand from the shares."""
    contrasts, strength = Contrasts(of_values(values)), 1.5
    mean = sum(TEACHERS[value] for value in values) / len(values)
    moved = {}
    for row, value in enumerate(values):
        found = []
        for seed in range(DRAWS):
            other = contrasts.draw(row, seed=seed)
            found.append(TEACHERS[value] + strength * other.weight * (TEACHERS[value] - TEACHERS[values[other.row]]))
        moved.setdefault(value, []).append(sum(found) / DRAWS)
    for value, of_rows in moved.items():
        expected = mean + (1 + strength) * (TEACHERS[value] - mean)
        tolerance = 0.0 if len(moved) == 2 else 4 * strength * 3.0 / DRAWS**0.5  # teachers are at most 6 apart
        assert of_rows == pytest.approx([expected] * len(of_rows), abs=tolerance + 1e-9)
    if len(moved) == 2:
        assert sum(sum(of_rows) for of_rows in moved.values()) / len(values) == pytest.approx(mean)


def test_a_row_in_the_same_wording_comes_first_and_one_in_another_where_there_is_none() -> None:
    alike = of_values("abab" + "aabb", wordings=["x", "x", "y", "y"])
    contrasts = Contrasts(alike)
    for row in range(8):
        others = {contrasts.draw(row, seed=seed).row for seed in range(40)}
        assert {alike.caption_N[other] for other in others} == {alike.caption_N[row]}
        assert all(alike.labels_N[other] != alike.labels_N[row] for other in others)
    apart = of_values("ab" * 4, wordings=["x", "y"])  # every a is an x
    assert {Contrasts(apart).draw(0, seed=seed).row for seed in range(60)} == {1, 3, 5, 7}


def test_other_values_are_those_of_the_rows_own_concept() -> None:
    contrasts = Contrasts(of_values("abac" + "bbbb", concepts=["nurse"] * 4 + ["pilot"] * 4))
    drawn = Counter(contrasts.draw(0, seed=seed).row for seed in range(200))
    assert set(drawn) == {1, 3}
    assert contrasts.draw(0, seed=0).weight == 0.5
    assert contrasts.draw(5, seed=0) is None  # of the pilot there is one value


def dealing(values: str, **changes) -> Batches:
    train = of_values(values, wordings=["x"])
    return dataclasses.replace(dealer(train), contrasts=Contrasts(train), **changes)


def captions_of(batches: Batches, text: TextEmbedding) -> list[str]:
    names = {place: name for name, (_, place) in batches.train.place_U.items()}
    return [names.get(int(number), "virtual") for number in text.hidden_BLD[:, 0, 0].tolist()]


def test_a_batch_has_a_caption_of_the_other_value_and_its_weight_beside_each_explicit_one() -> None:
    batches = dealing("aaab" * 3)
    for step in range(6):
        batch = batches.at(step)
        pairs = zip(captions_of(batches, batch.explicit_text), captions_of(batches, batch.contrast_text), strict=True)
        expected = {("x a", "x b", 0.25), ("x b", "x a", 0.75)}
        found = {(*pair, weight) for pair, weight in zip(pairs, batch.contrast_B.tolist(), strict=True)}
        assert found <= expected
    assert dataclasses.replace(batches, contrasts=None).at(0).contrast_text is None


def test_it_changes_nothing_else_of_a_batch() -> None:
    batches = dealing("ab" * 6)
    plain, contrasted = dataclasses.replace(batches, contrasts=None).at(3), batches.at(3)
    for name in ("noise_BCHW", "latents_BCHW", "timesteps_B"):
        assert getattr(plain, name).equal(getattr(contrasted, name))
    assert plain.explicit_text.hidden_BLD.equal(contrasted.explicit_text.hidden_BLD)


def test_a_virtual_row_has_its_word_there_too() -> None:
    virtual = dealing("ab" * 6, virtual=VirtualConcepts(words=Words(), share=1.0)).at(2)
    own = [LEAST + derive(seed, "number") % 10_000 for seed in virtual.row_seeds]
    assert virtual.contrast_text.hidden_BLD[:, 0, 0].tolist() == own
    assert virtual.contrast_B.eq(0.5).all()


def test_a_virtual_row_is_not_contrasted_where_the_other_caption_has_no_place_for_its_word() -> None:
    """Rows of a: the word stands in their own captions, not in those of b. Rows of b are not virtual at all."""
    virtual = VirtualConcepts(words=Words(missing=("", "x b")), share=1.0)
    batch = dealing("ab" * 6, virtual=virtual).at(2)
    is_a = torch.tensor([row % 2 == 0 for row in rows_of(batch.latents_BCHW)])
    assert batch.contrast_B.equal((~is_a) * 0.5)
    assert batch.contrast_text.hidden_BLD[is_a].equal(batch.explicit_text.hidden_BLD[is_a])


def test_a_row_with_another_pair_of_captions_is_not_contrasted() -> None:
    """The set has no caption of another value in that wording."""
    batches = dealing("ab" * 6)
    pair = CaptionPair(text="x", explicit="x a", concept="person")
    other = dataclasses.replace(batches, alternatives=Alternatives(share=1.0, pairs_N=[(pair,)] * 12)).at(1)
    assert other.contrast_B.eq(0).all()
    assert other.contrast_text.hidden_BLD.equal(other.explicit_text.hidden_BLD)
