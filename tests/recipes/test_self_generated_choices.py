"""What a user may choose of `SelfGenerated`: second readers, filters, and concepts that are left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evenhand.evaluation.targets import Table, Uniform
from evenhand.hygiene.filters import ReaderFilter
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.preserve import Preserve
from evenhand.records import SubjectReading
from tests.painted import OCCUPATIONS, PaintedBase, PaintedReader
from tests.recipes.painted_recipe import PRESENTATION, build, recipe


class Mistaken(PaintedReader):
    """Takes the picture for a woman's where the noise in the corner is dark."""

    def read(self, images: Any) -> list[list[SubjectReading]]:
        readings = super().read(images)
        for image, subjects in zip(images, readings, strict=True):
            if image.getpixel((0, 0))[0] < 64:
                subjects[0] = SubjectReading(
                    subject=0, attribute="presentation", value="woman", probs=None, unread=None
                )
        return readings


@pytest.mark.parametrize("confirm", ["all", "first"])
def test_a_second_reader_confirms_or_is_counted_and_disagreement_is_told(tmp_path: Path, confirm: str) -> None:
    maker = recipe(PaintedBase(), second_readers={"one": Mistaken(name="second"), "two": None}, confirm=confirm)
    rows = build(tmp_path, maker)
    men = [row for row in rows if row.file_name.startswith("train/") and row.labels["presentation"] == "man"]
    dark = [row for row in men if Image.open(tmp_path / row.file_name).getpixel((0, 0))[0] < 64]
    account = maker.account(tmp_path)
    assert account.acceptance is not None
    refused = Counter()
    for cell in account.acceptance:
        refused.update(cell.refused)
        assert cell.attempts == cell.confirmed + sum(cell.refused.values())
        assert cell.labels["presentation"] == "man" or cell.disagreed == 0
    disagreed = sum(cell.disagreed for cell in account.acceptance)
    assert disagreed > 0
    if confirm == "all":
        assert dark == []
        assert refused == {"presentation=woman (second only)": disagreed}
        assert maker.origin.confirmed_by == "painted_reader and second"
    else:
        assert len(dark) == disagreed
        assert refused == {}
        assert maker.origin.confirmed_by == "painted_reader"


def test_a_refusal_of_both_readers_is_no_disagreement(tmp_path: Path) -> None:
    base = PaintedBase(disobeys={("judge", "woman"): 0.5})
    maker = recipe(base, second_readers={"one": PaintedReader(name="second")})
    build(tmp_path, maker)
    acceptance = maker.account(tmp_path).acceptance
    assert acceptance is not None
    assert [cell.disagreed for cell in acceptance] == [0] * 6
    (judges,) = [cell for cell in acceptance if (cell.concept, cell.labels["presentation"]) == ("judge", "woman")]
    assert judges.refused == {"presentation=man": judges.attempts - judges.confirmed}
    assert judges.confirmed >= 4
    assert judges.attempts > judges.confirmed


def test_a_journal_of_one_reader_is_not_taken_for_one_of_two(tmp_path: Path) -> None:
    build(tmp_path, recipe(PaintedBase()))
    with pytest.raises(ValueError, match="line 1 is not of this build"):
        build(tmp_path, recipe(PaintedBase(), second_readers={"one": PaintedReader(name="second")}))


def alone_plan(**changes: Any) -> CuratedPlan:
    arguments: dict[str, Any] = {
        "attributes": {"first": PRESENTATION},
        "targets": {"*": Table(rows={"*": {"woman": 0.5, "man": 0.5}, "nurse": "base"}, source="a choice")},
        "concepts": ["mechanic", "nurse"],
        "heldout": [],
        "templates": ["a portrait of {a_concept}", "{a_concept} at work", "a photo of {a_concept}"],
        "images_per_concept": 6,
        "seed": 3,
    }
    return CuratedPlan(**{**arguments, **changes})


def test_a_concept_that_is_left_alone_goes_to_preserve_as_the_base_paints_it(tmp_path: Path) -> None:
    base = PaintedBase()
    maker = recipe(base, plan=alone_plan())
    rows = build(tmp_path, maker)
    assert len(rows) == maker.num_images
    assert {row.concept for row in rows if row.file_name.startswith("train/")} == {"mechanic"}
    alone = [row for row in rows if row.concept == "nurse"]
    assert len(alone) == 6
    assert all(row.file_name.startswith("preserve/") and row.labels == {} for row in alone)
    assert {row.text for row in alone} == {"a portrait of a nurse", "a nurse at work", "a photo of a nurse"}
    asked = {seed: caption for batch in base.batches for caption, seed in batch}
    assert [asked[row.seed] for row in alone] == [row.text for row in alone]  # the neutral caption, to the base
    assert len({row.seed for row in rows if row.file_name.startswith("preserve/")}) == len(rows) - 6  # of train


def test_concepts_that_are_left_alone_need_a_preserve_part() -> None:
    with pytest.raises(ValueError, match=r"'nurse' is to stay as the base has it.*preserve must not be null"):
        recipe(PaintedBase(), plan=alone_plan(), preserve=None)


def test_a_left_alone_caption_that_preserve_asks_for_too_gets_other_pictures(tmp_path: Path) -> None:
    asked_twice = Preserve(captions=("a photo of a nurse",), images_per_caption=2, explicit=False, empty=0)
    rows = build(tmp_path, recipe(PaintedBase(), plan=alone_plan(), preserve=asked_twice))
    seeds = [row.seed for row in rows if row.text == "a photo of a nurse"]
    assert len(seeds) == len(set(seeds)) == 4


def test_two_readers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="reader painted_reader is asked twice"):
        recipe(PaintedBase(), second_readers={"one": PaintedReader()})


def test_a_second_reader_must_read_every_label_but_not_the_concept() -> None:
    recipe(
        PaintedBase(),
        second_readers={"one": PaintedReader(name="second", attributes={"presentation": ("woman", "man")})},
    )
    with pytest.raises(ValueError, match="reader second does not read 'presentation'"):
        recipe(
            PaintedBase(),
            second_readers={"one": PaintedReader(name="second", attributes={"occupation": OCCUPATIONS})},
        )
    known = {"presentation": ("woman", "man"), "occupation": ("mechanic", "nurse")}
    with pytest.raises(ValueError, match="reader second knows no occupation=judge"):
        recipe(PaintedBase(), second_readers={"one": PaintedReader(name="second", attributes=known)})


def test_what_a_filter_leaves_out_is_refused_and_counted_by_its_name(tmp_path: Path) -> None:
    no_judges = ReaderFilter(
        name="no judges",
        reader=PaintedReader(name="filter"),
        attribute="occupation",
        allowed=("mechanic", "nurse"),
        min_subjects=None,
        max_subjects=None,
        unread="skip",
        about="picture",
    )
    base = PaintedBase(wrong_occupation=0.3)  # a nurse is then painted as the next occupation, a judge
    plan = alone_plan(targets={"*": Uniform()})
    maker = recipe(base, plan=plan, concept_attribute=None, filters={"first": no_judges}, preserve=None)
    build(tmp_path, maker)
    account = maker.account(tmp_path)
    assert account.acceptance is not None
    refused = sum(sum(cell.refused.values()) for cell in account.acceptance)
    assert account.filters == {"no judges": refused}
    assert refused > 0
    assert {reason for cell in account.acceptance for reason in cell.refused} == {"left out by filter no judges"}
    assert {cell.disagreed for cell in account.acceptance} == {0}
