"""Which rows of a batch get a virtual concept, with words that tell their seed; for the real ones see tests/bases."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from evenhand.data.batches import Batches, VirtualConcepts
from evenhand.data.coupling import siblings
from evenhand.data.encoded import EncodedSet
from evenhand.interfaces import TextEmbedding
from evenhand.seeds import derive
from tests.data.synthetic import dealer, rows_of, synthetic

# By number: the neutral captions of two concepts, and their explicit ones.
NUMBERS = {"": 0.0, "one": 1.0, "two": 2.0, "ONE": 11.0, "TWO": 12.0}
LEAST = 100.0  # of a virtual word's number


class Words:
    """Virtual words that stand for their seed by a number above all captions' own."""

    def __init__(self, *, missing: tuple[str, ...] = ("",)) -> None:
        self.missing = missing
        self.calls: list[tuple[list[str], list[str]]] = []

    def stands_in(self, concept: str, caption: str) -> bool:
        return caption not in self.missing

    def embed(self, captions, concepts, seeds) -> TextEmbedding:
        self.calls.append((list(captions), list(concepts)))
        assert not set(captions) & set(self.missing)
        drawn = torch.tensor([LEAST + derive(seed, "number") % 10_000 for seed in seeds])
        hidden = drawn.view(-1, 1, 1).expand(-1, 2, 3).contiguous()
        return TextEmbedding(hidden_BLD=hidden, pooled_BD=hidden[:, 0] / 10)


def explicit_set() -> EncodedSet:
    """Rows of two concepts in turns, whose embeddings are their captions' numbers, and a tenth of them pooled."""
    plain = synthetic()
    hidden = torch.tensor(list(NUMBERS.values())).view(-1, 1, 1).expand(-1, 2, 3).contiguous()
    return dataclasses.replace(
        plain,
        texts=[TextEmbedding(hidden_BLD=hidden, pooled_BD=hidden[:, 0] / 10)],
        place_U={caption: (0, entry) for entry, caption in enumerate(NUMBERS)},
        explicit_N=[caption.upper() for caption in plain.caption_N],
        concept_N=[f"concept {caption}" for caption in plain.caption_N],
        siblings_N=siblings(plain.caption_N, [str(row % 4 // 2) for row in range(12)]),
    )


def dealing(
    share: float | None, *, words: Words | None = None, until: int | None = None, rows_per_noise: int = 1, **changes
) -> Batches:
    virtual = None if share is None else VirtualConcepts(words=words or Words(), share=share, until=until)
    return dataclasses.replace(dealer(explicit_set(), **changes), virtual=virtual, rows_per_noise=rows_per_noise)


def numbers(text: TextEmbedding) -> torch.Tensor:
    return text.hidden_BLD[:, 0, 0]


def test_every_row_gets_the_word_of_its_seed_in_both_captions_and_pooled() -> None:
    words = Words()
    batch = dealing(1.0, words=words).at(2)
    own = [LEAST + derive(seed, "number") % 10_000 for seed in batch.row_seeds]
    assert numbers(batch.text).tolist() == numbers(batch.explicit_text).tolist() == own
    assert len(set(own)) == 8
    for text in (batch.text, batch.explicit_text):
        torch.testing.assert_close(text.pooled_BD[:, 0], numbers(text) / 10)
    rows = rows_of(batch.latents_BCHW)
    captions = ["one" if row % 2 == 0 else "two" for row in rows]
    concepts = [f"concept {caption}" for caption in captions]
    assert sorted(words.calls) == sorted([(captions, concepts), ([c.upper() for c in captions], concepts)])


def test_without_virtual_concepts_and_with_a_share_of_0_the_embeddings_come_from_the_cache_bit_for_bit() -> None:
    words = Words()
    none, never = dealing(None).at(3), dealing(0.0, words=words).at(3)
    for name in ("text", "explicit_text"):
        for part in ("hidden_BLD", "pooled_BD"):
            assert getattr(getattr(none, name), part).equal(getattr(getattr(never, name), part))
    assert words.calls == []
    assert set(numbers(none.text).tolist()) == {1.0, 2.0}
    assert (numbers(none.explicit_text) - numbers(none.text)).eq(10).all()
    assert dealing(0.99).at(3).text.hidden_BLD.max() >= LEAST


def test_the_wanted_share_of_the_rows_is_virtual() -> None:
    found = torch.cat([numbers(dealing(0.4).at(step).text) for step in range(150)])
    assert (found >= LEAST).float().mean().item() == pytest.approx(0.4, abs=0.057)  # 1200 rows: 4 standard errors


def test_the_share_falls_in_a_straight_line_to_nothing() -> None:
    virtual = [numbers(dealing(0.8, until=600).at(step).text) >= LEAST for step in range(800)]
    for first, share in ((0, 0.7), (150, 0.5), (300, 0.3), (450, 0.1)):  # 0.8, 0.6, 0.4 and 0.2 there, and the mean on
        found = torch.cat(virtual[first : first + 150]).float().mean().item()
        assert found == pytest.approx(share, abs=0.058)  # 1200 rows: 4 standard errors
    assert not torch.cat(virtual[600:]).any()


def test_nothing_changes_but_the_captions_embeddings_of_virtual_rows() -> None:
    plain, virtual = dealing(None).at(4), dealing(0.5).at(4)
    for name in ("noise_BCHW", "latents_BCHW", "timesteps_B"):
        assert getattr(plain, name).equal(getattr(virtual, name))
    assert (plain.captions, plain.concepts, plain.row_seeds) == (virtual.captions, virtual.concepts, virtual.row_seeds)
    own = numbers(virtual.text) < LEAST
    assert 0 < own.sum() < 8
    assert own.equal(numbers(virtual.explicit_text) < LEAST)
    for name in ("text", "explicit_text"):
        assert numbers(getattr(virtual, name))[own].equal(numbers(getattr(plain, name))[own])


def test_a_dropped_caption_stays_empty_and_its_explicit_one_keeps_its_own_concept() -> None:
    pairs = []
    for batch in (dealing(1.0, dropout=0.5).at(step) for step in range(5)):
        pairs += list(zip(numbers(batch.text).tolist(), numbers(batch.explicit_text).tolist(), strict=True))
    dropped = [explicit for neutral, explicit in pairs if neutral == 0]
    assert 0 < len(dropped) < 40
    assert set(dropped) == {11.0, 12.0}
    assert all(neutral == explicit >= LEAST for neutral, explicit in pairs if neutral != 0)


@pytest.mark.parametrize("missing", ["one", "ONE"])
def test_a_concept_that_does_not_stand_in_both_captions_is_never_replaced(missing) -> None:
    batch = dealing(1.0, words=Words(missing=("", missing))).at(0)
    neutral, explicit = numbers(batch.text), numbers(batch.explicit_text)
    first = torch.tensor([row % 2 == 0 for row in rows_of(batch.latents_BCHW)])
    assert set(neutral[first].tolist()) == {1.0}
    assert set(explicit[first].tolist()) == {11.0}
    assert (neutral[~first] >= LEAST).all()
    assert neutral[~first].equal(explicit[~first])


def test_rows_that_share_their_noise_share_their_virtual_concept() -> None:
    kinds = set()
    for step in range(6):
        found = numbers(dealing(0.5, rows_per_noise=4).at(step).text).tolist()
        for group in (found[:4], found[4:]):
            assert len(set(group)) == 1
            kinds.add(group[0] >= LEAST)
    assert kinds == {True, False}


def test_parts_of_a_batch_are_virtual_as_the_whole_and_every_time_the_same() -> None:
    whole = numbers(dealing(0.5).at(3).explicit_text)
    parts = [numbers(dealing(0.5).at(3, part=part, num_parts=2).explicit_text) for part in range(2)]
    assert torch.stack(parts, dim=1).flatten().equal(whole)
    assert numbers(dealing(0.5).at(3).explicit_text).equal(whole)
    assert not numbers(dealing(0.5).at(4).explicit_text).equal(whole)


def test_preserve_rows_are_left_alone() -> None:
    kept = dataclasses.replace(dealing(1.0), preserve=explicit_set(), preserve_batch_size=4).at(0)
    assert set(numbers(kept.preserve_text).tolist()) <= {1.0, 2.0}
    assert (numbers(kept.text) >= LEAST).all()
