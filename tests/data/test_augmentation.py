from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from evenhand.bases.sd import StableDiffusion
from evenhand.data.augmentation import Alternatives, CaptionAugmentation, CaptionPair
from evenhand.data.batches import Batches
from evenhand.data.encoded import EncodedSet, encode_set
from evenhand.data.rows import read_examples, read_split
from evenhand.files import write_jsonl_atomic
from evenhand.interfaces import TextEmbedding
from tests.data.synthetic import dealer, synthetic
from tests.tiny import PLAIN
from tests.tiny_set import IMAGES

# By number: two neutral captions and their explicit ones, and a pair that no row has.
NUMBERS = {"": 0.0, "one": 1.0, "two": 2.0, "ONE": 11.0, "TWO": 12.0, "other": 5.0, "OTHER": 15.0}
OTHER = CaptionPair("other", "OTHER", "baker")


def explicit_set() -> EncodedSet:
    plain = synthetic()
    numbers = torch.tensor(list(NUMBERS.values())).view(-1, 1, 1).expand(-1, 2, 3).contiguous()
    return dataclasses.replace(
        plain,
        texts=[TextEmbedding(hidden_BLD=numbers)],
        place_U={caption: (0, entry) for entry, caption in enumerate(NUMBERS)},
        explicit_N=[caption.upper() for caption in plain.caption_N],
        concept_N=list(plain.caption_N),
    )


def dealing(share: float, *, pairs: tuple[CaptionPair, ...] = (OTHER,), **changes) -> Batches:
    found = Alternatives(share=share, pairs_N=[pairs] * 12)
    return dataclasses.replace(dealer(explicit_set(), **changes), alternatives=found)


def numbers(text: TextEmbedding) -> list[float]:
    return text.hidden_BLD[:, 0, 0].tolist()


def test_both_captions_and_the_concept_are_those_of_the_pair_and_nothing_else_changes() -> None:
    plain, other = dealing(1e-9).at(3), dealing(1.0).at(3)
    assert set(numbers(plain.text)) == {1.0, 2.0}
    assert (numbers(other.text), numbers(other.explicit_text)) == ([5.0] * 8, [15.0] * 8)
    assert (other.captions, other.concepts) == (("other",) * 8, ("baker",) * 8)
    for name in ("latents_BCHW", "noise_BCHW", "timesteps_B"):
        assert getattr(other, name).equal(getattr(plain, name))
    assert other.row_seeds == plain.row_seeds


def test_the_wanted_share_of_the_rows_is_replaced_and_each_pair_alike() -> None:
    third = CaptionPair("two", "TWO", "x")
    found = [number for step in range(150) for number in numbers(dealing(0.4).at(step).text)]
    assert sum(number == 5 for number in found) / 1200 == pytest.approx(0.4, abs=0.057)  # 4 standard errors
    pairs = [number for step in range(150) for number in numbers(dealing(1.0, pairs=(OTHER, third)).at(step).text)]
    assert sum(number == 5 for number in pairs) / 1200 == pytest.approx(0.5, abs=0.058)


def test_rows_without_other_captions_keep_their_own() -> None:
    batch, plain = dealing(1.0, pairs=()).at(0), dealer(explicit_set()).at(0)
    assert numbers(batch.text) == numbers(plain.text)
    assert numbers(batch.explicit_text) == numbers(plain.explicit_text)


def test_parts_of_a_batch_are_replaced_as_the_whole() -> None:
    whole = numbers(dealing(0.5).at(4).text)
    parts = [numbers(dealing(0.5).at(4, part=part, num_parts=2).text) for part in range(2)]
    assert [parts[place % 2][place // 2] for place in range(8)] == whole
    assert 0 < sum(number == 5 for number in whole) < 8


def test_dropped_captions_stay_empty_and_keep_their_rows_own_explicit_one() -> None:
    pairs = [
        pair
        for batch in (dealing(0.5, dropout=0.4).at(step) for step in range(4))
        for pair in zip(numbers(batch.text), numbers(batch.explicit_text), strict=True)
    ]
    assert set(pairs) == {(0, 11), (0, 12), (5, 15), (1, 11), (2, 12)}


def test_preserve_rows_are_left_alone() -> None:
    kept = dataclasses.replace(dealing(1.0), preserve=synthetic(), preserve_batch_size=4).at(0)
    assert set(kept.preserve_text.hidden_BLD[:, 0, 0].tolist()) <= {1.0, 2.0}


def test_captions_that_are_embedded_with_gradients_are_replaced_too() -> None:
    asked: list[list[str]] = []

    def embed(captions) -> TextEmbedding:
        asked.append(list(captions))
        hidden = torch.tensor([NUMBERS[caption] for caption in captions]).view(-1, 1, 1).expand(-1, 2, 3)
        return TextEmbedding(hidden_BLD=hidden)

    batch = dealing(1.0, embed_text=embed).at(0)
    assert (asked, numbers(batch.text), numbers(batch.explicit_text)) == ([["other"]], [5.0] * 8, [15.0] * 8)


def row(concept: str, value: str, wording: str = "a doctor with glasses", **changes: object) -> dict[str, object]:
    form = {"woman": "female", "man": "male"}[value]
    good = {"text": f"{wording}: a {concept}", "explicit": f"{wording}: a {form} {concept}", "concept": concept}
    return {**good, "labels": {"presentation": value}, "counterfactuals": {}, **changes}


def captions(folder: Path, *rows: dict[str, object], across: str = "wordings") -> CaptionAugmentation:
    write_jsonl_atomic(folder / "train" / "captions.jsonl", rows)
    return CaptionAugmentation(captions=folder, share=0.5, across=across)  # type: ignore[arg-type]  # as YAML gives it


def test_wordings_are_of_the_rows_concept_and_values_and_concepts_of_its_values(tiny_set_folder, tmp_path) -> None:
    """The set's rows 0 to 3 are mechanics, women and men in turns, then nurses and doctors."""
    examples = read_examples(tiny_set_folder, "train")
    rows = [row("mechanic", "woman"), row("mechanic", "woman"), row("mechanic", "man"), row("baker", "woman")]
    by_wording = captions(tmp_path, *rows).alternatives(examples)
    named = [[pair.explicit for pair in pairs] for pairs in by_wording.pairs_N]
    female, male = ("a doctor with glasses: a female mechanic", "a doctor with glasses: a male mechanic")
    assert named == [[female], [male], [female], [male], *[[]] * 8]
    by_values = captions(tmp_path, *rows, across="concepts").alternatives(examples)
    assert [pair.concept for pair in by_values.pairs_N[4]] == ["mechanic", "baker"]  # a woman, a nurse
    assert [pair.concept for pair in by_values.pairs_N[5]] == ["mechanic"]
    assert [pair.concept for pair in by_values.pairs()] == ["baker", "mechanic", "mechanic"]


def test_captions_without_pictures_are_embedded_beside_the_sets_own(sd, tiny_set_folder, tmp_path) -> None:
    plan = captions(tmp_path / "captions", row("mechanic", "woman"))
    (pair,) = plan.alternatives(read_examples(tiny_set_folder, "train")).pairs()
    split = read_split(tiny_set_folder, "train")
    cache = tmp_path / "cache"
    encoded = encode_set(sd, split, images=IMAGES, cache_folder=cache, explicit=True, others=pair[:2])
    wanted = sd.encode_text(list(pair[:2])).hidden_BLD
    torch.testing.assert_close(encoded.text(pair[:2]).hidden_BLD, wanted, rtol=1e-4, atol=1e-5)
    assert list(encoded.explicit_N) == [example.explicit for example in split.examples]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("baker", "woman")], r"no caption has the concept and values of any row .*mechanic.*across=concepts"),
        ([row("mechanic", "man", explicit=" ")], r"captions\.jsonl line 1: explicit must be text, got ' '"),
        ([row("mechanic", "man"), row("nurse", "man", text=3)], r"line 2: text must be text, got 3"),
        ([row("mechanic", "man", labels=None)], r"line 1: labels must map attributes to values, got None"),
    ],
)
def test_captions_that_cannot_be_used_are_refused(tiny_set_folder, tmp_path, rows, message) -> None:
    with pytest.raises(ValueError, match=message):
        captions(tmp_path, *rows).alternatives(read_examples(tiny_set_folder, "train"))


def test_a_folder_without_captions_and_a_caption_that_is_too_long_are_refused(
    tiny_folder, tiny_set_folder, tmp_path
) -> None:
    examples = read_examples(tiny_set_folder, "train")
    with pytest.raises(ValueError, match=r"has no train/captions\.jsonl: build captions .*recipe=captions_only"):
        CaptionAugmentation(captions=tmp_path, share=0.5, across="wordings").alternatives(examples)
    base = StableDiffusion(name="tiny", model=str(tiny_folder), **PLAIN)
    captions(tmp_path, row("mechanic", "man")).check(examples, base=base)
    with pytest.raises(ValueError, match=r"captions\.jsonl: caption has \d+ tokens, but the text encoder reads 77"):
        captions(tmp_path, row("mechanic", "man", "a " * 76)).check(examples, base=base)


def test_settings_that_make_no_sense_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"share must be above 0 and at most 1, got 0\.0 \(augmentation\.share\)"):
        CaptionAugmentation(captions=tmp_path, share=0.0, across="wordings")
    with pytest.raises(ValueError, match="across must be one of wordings, concepts, got 'words'"):
        CaptionAugmentation(captions=tmp_path, share=0.5, across="words")  # type: ignore[arg-type]  # that is the point
