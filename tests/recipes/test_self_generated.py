"""`SelfGenerated` on a base that paints what it is asked for, with a known chance to disobey, read by its colours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evenhand.evaluation.targets import Table, Uniform
from evenhand.files import read_jsonl
from evenhand.hygiene.filters import ReaderFilter
from evenhand.interfaces import Ranks, SamplingSettings
from evenhand.processes import OneProcess
from evenhand.recipes.attempts import ATTEMPTS, UNDER_WAY
from evenhand.recipes.curated_plan import CuratedPlan
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.preserve import Preserve
from evenhand.recipes.self_generated import SelfGenerated
from evenhand.records import Attribute, Example, SubjectReading
from tests.painted import OCCUPATIONS, PRESENTATIONS, SIZE_PX, PaintedBase, PaintedReader
from tests.rank_threads import on_ranks

CPU = torch.device("cpu")
PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
PRESERVE = Preserve(captions=("a car", "a female person"), images_per_caption=3, explicit=True, empty=2)


def recipe(base: PaintedBase, reader: Any = None, **changes: Any) -> SelfGenerated:
    arguments: dict[str, Any] = {
        "plan": CuratedPlan(
            attributes={"first": PRESENTATION},
            targets={"*": Uniform()},
            concepts=["mechanic", "nurse", "judge"],
            heldout=["pilot"],
            templates=["a portrait of {a_concept}", "{a_concept} at work", "a photo of {a_concept}"],
            images_per_concept=8,
            seed=3,
        ),
        "base": base,
        "reader": reader or PaintedReader(),
        "second_readers": {},
        "confirm": "all",
        "concept_attribute": "occupation",
        "filters": {},
        "sampling": SamplingSettings(steps=1, guidance=1.0, height_px=SIZE_PX, width_px=SIZE_PX),
        "batch_size": 7,
        "dtype": "float32",
        "max_attempts_factor": 20,
        "license": "cc0-1.0",
        "preserve": PRESERVE,
    }
    return SelfGenerated(**{**arguments, **changes})


def build(folder: Path, maker: SelfGenerated) -> list[Example]:
    rows = list(maker.build(folder, device=CPU, ranks=OneProcess()))
    write_metadata(folder, rows)
    return rows


def painted_presentation(path: Path) -> str:
    """The truth, from the pixels."""
    seen = Image.open(path).getpixel((SIZE_PX - 1, 0))
    return next(name for name, color in PRESENTATIONS.items() if color == seen)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_quotas_are_filled_with_images_that_show_their_labels_though_the_base_disobeys(tmp_path: Path) -> None:
    base = PaintedBase(disobeys={("mechanic", "woman"): 0.7, ("nurse", "man"): 0.4}, wrong_occupation=0.1)
    maker = recipe(base)
    rows = [row for row in build(tmp_path, maker) if row.file_name.startswith("train/")]
    assert not (tmp_path / UNDER_WAY).exists()
    assert Counter((row.concept, row.labels["presentation"]) for row in rows) == dict.fromkeys(
        [(concept, value) for concept in ("mechanic", "nurse", "judge") for value in ("woman", "man")], 4
    )
    for row in rows:
        assert painted_presentation(tmp_path / row.file_name) == row.labels["presentation"]
        assert "male" not in row.text
    refused = Counter(
        reason for line in read_jsonl(tmp_path / ATTEMPTS) for _, _, reason in line["attempts"] if reason is not None
    )
    assert refused["presentation=man"] > 0
    assert refused["occupation=nurse"] > 0  # a mechanic painted as the next occupation


def test_an_obedient_base_is_asked_once_for_each_image(tmp_path: Path) -> None:
    base = PaintedBase()
    maker = recipe(base, preserve=None)
    assert len(build(tmp_path, maker)) == maker.num_images == 24
    assert [len(batch) for batch in base.batches] == [7, 7, 7, 3]
    assert not (tmp_path / "preserve").exists()


def test_images_are_made_under_the_explicit_form_of_their_own_template(tmp_path: Path) -> None:
    base = PaintedBase(disobeys={("mechanic", "woman"): 0.5})
    rows = build(tmp_path, recipe(base, preserve=None))
    asked = {seed: caption for batch in base.batches for caption, seed in batch}
    for row in rows:
        word = {"woman": "female", "man": "male"}[row.labels["presentation"]]
        assert asked[row.seed] == row.text.replace(f"a {row.concept}", f"a {word} {row.concept}")


def test_preserve_holds_explicit_other_and_empty_captions(tmp_path: Path) -> None:
    maker = recipe(PaintedBase())
    rows = build(tmp_path, maker)
    assert len(rows) == maker.num_images == 24 + 24 + 2 * 3 + 2
    train = read_jsonl(tmp_path / "train" / "metadata.jsonl")
    preserve = read_jsonl(tmp_path / "preserve" / "metadata.jsonl")
    assert Counter(row["text"] for row in preserve[24:]) == {"a car": 3, "a female person": 3, "": 2}
    for neutral, explicit in zip(train, preserve[:24], strict=True):
        assert explicit["labels"] == neutral["labels"]
        assert explicit["text"] != neutral["text"]
        same = [(tmp_path / part / neutral["file_name"]).read_bytes() for part in ("train", "preserve")]
        assert same[0] == same[1]
    assert all((tmp_path / "preserve" / row["file_name"]).is_file() for row in preserve)


def test_a_build_that_was_killed_after_any_batch_ends_with_the_same_bytes(tmp_path: Path) -> None:
    disobeys = {("mechanic", "woman"): 0.7, ("nurse", "man"): 0.4}
    whole = PaintedBase(disobeys=disobeys)
    build(tmp_path / "whole", recipe(whole))
    assert len(whole.batches) > 6
    for die_after in range(len(whole.batches)):
        folder = tmp_path / f"killed-{die_after}"
        with pytest.raises(KeyboardInterrupt):
            build(folder, recipe(PaintedBase(disobeys=disobeys, die_after=die_after)))
        assert not (folder / "train" / "metadata.jsonl").exists()
        build(folder, recipe(PaintedBase(disobeys=disobeys)))
        assert contents(folder) == contents(tmp_path / "whole")


def test_a_kill_between_image_and_journal_or_inside_a_journal_line_loses_nothing(tmp_path: Path) -> None:
    disobeys = {("mechanic", "woman"): 0.7}
    build(tmp_path / "whole", recipe(PaintedBase(disobeys=disobeys)))
    build(tmp_path / "torn", recipe(PaintedBase(disobeys=disobeys)))
    journal = tmp_path / "torn" / ATTEMPTS
    journal.write_bytes(journal.read_bytes()[:-9])
    (tmp_path / "torn" / "train" / "000000.png").unlink()
    build(tmp_path / "torn", recipe(PaintedBase(disobeys=disobeys)))
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_a_finished_build_loads_no_model_and_changes_nothing(tmp_path: Path) -> None:
    build(tmp_path, recipe(PaintedBase(disobeys={("nurse", "man"): 0.5})))
    before = contents(tmp_path)
    base, reader = PaintedBase(disobeys={("nurse", "man"): 0.5}), PaintedReader()
    build(tmp_path, recipe(base, reader))
    assert contents(tmp_path) == before
    assert base.num_loads == reader.num_loads == 0


def test_another_seed_makes_other_images(tmp_path: Path) -> None:
    first, second = recipe(PaintedBase()), recipe(PaintedBase())
    second.plan.seed = 6
    assert {row.seed for row in build(tmp_path / "a", first)}.isdisjoint(
        {row.seed for row in build(tmp_path / "b", second)}
    )


def test_a_cell_that_cannot_be_filled_is_named_with_what_was_read_instead(tmp_path: Path) -> None:
    base = PaintedBase(disobeys={("mechanic", "woman"): 1.0})
    with pytest.raises(
        ValueError, match=r"mechanic, cell presentation=woman: 0 of 4 confirmed in \d+ attempts"
    ) as error:
        build(tmp_path, recipe(base, max_attempts_factor=3))
    assert "refused: presentation=man" in str(error.value)
    assert "raise max_attempts_factor (now 3" in str(error.value)
    attempts = Counter(
        index for line in read_jsonl(tmp_path / ATTEMPTS) for index, _, _ in line["attempts"] if index < 4
    )
    assert 12 <= attempts.total() <= 24  # the budget is 3 x 4; the round in which it is spent is finished


def test_a_stopped_build_goes_on_with_a_larger_budget(tmp_path: Path) -> None:
    disobeys = {("mechanic", "woman"): 0.95}
    build(tmp_path / "whole", recipe(PaintedBase(disobeys=disobeys), max_attempts_factor=500))
    with pytest.raises(ValueError, match="budget spent"):
        build(tmp_path / "stopped", recipe(PaintedBase(disobeys=disobeys), max_attempts_factor=2))
    build(tmp_path / "stopped", recipe(PaintedBase(disobeys=disobeys), max_attempts_factor=500))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_journal_of_another_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / ATTEMPTS).write_text(json.dumps({"attempts": [[99, 0, None]]}) + "\n")
    with pytest.raises(ValueError, match="line 1 is not of this build"):
        build(tmp_path, recipe(PaintedBase()))


def test_every_subject_of_a_picture_must_show_the_labels(tmp_path: Path) -> None:
    class TwoPeople(PaintedReader):
        """Sees a second person, always a man."""

        def read(self, images: Any) -> list[list[SubjectReading]]:
            second = SubjectReading(subject=1, attribute="presentation", value="man", probs=None, unread=None)
            return [[*subjects, second] for subjects in super().read(images)]

    with pytest.raises(ValueError, match=r"cell presentation=woman: 0 of 4 .*presentation=man"):
        build(tmp_path, recipe(PaintedBase(), TwoPeople(), max_attempts_factor=2))


def test_an_unread_image_is_refused_with_the_readers_reason(tmp_path: Path) -> None:
    class Blind(PaintedReader):
        def read(self, images: Any) -> list[list[SubjectReading]]:
            unread = SubjectReading(
                subject=0, attribute="presentation", value=None, probs=None, unread="too dark (0.13)"
            )
            return [[unread] for _ in images]

    with pytest.raises(ValueError, match=r"refused: presentation unread: too dark 4x\)"):
        build(tmp_path, recipe(PaintedBase(), Blind(), concept_attribute=None, max_attempts_factor=1))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"max_attempts_factor": 0}, "max_attempts_factor must be >= 1, got 0"),
        ({"license": " "}, "license is empty"),
        ({"concept_attribute": "job"}, "reader painted_reader does not read 'job'; it reads presentation, occupation"),
        (
            {"reader": PaintedReader(attributes={"presentation": ("man",), "occupation": OCCUPATIONS})},
            "reader painted_reader knows no presentation=woman",
        ),
        ({"reader": PaintedReader(attributes={"occupation": ("mechanic",)})}, "does not read 'presentation'"),
        (
            {"preserve": Preserve(captions=("two pilots",), images_per_caption=1, explicit=False, empty=0)},
            "preserve.captions leak: 'pilots'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_loads(changes: dict[str, Any], problem: str) -> None:
    base = PaintedBase()
    with pytest.raises(ValueError, match=problem):
        recipe(base, **changes)
    assert base.num_loads == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images_per_caption": -1}, "preserve.images_per_caption must be >= 0"),
        ({"empty": -1}, "preserve.empty must be >= 0"),
        ({"captions": ("a", "a")}, "'a' is listed twice"),
        ({"captions": ("",)}, "set preserve.empty"),
    ],
)
def test_wrong_preserve_settings_are_refused(changes: dict[str, Any], problem: str) -> None:
    settings: dict[str, Any] = {"captions": ("a",), "images_per_caption": 1, "explicit": True, "empty": 1}
    with pytest.raises(ValueError, match=problem):
        Preserve(**{**settings, **changes})


DISOBEYS = {("mechanic", "woman"): 0.7, ("nurse", "man"): 0.4}


def build_together(folder: Path, bases: Sequence[PaintedBase]) -> list[list[Example]]:
    """A build on as many ranks as there are bases; each rank's rows."""

    def share(ranks: Ranks) -> list[Example]:
        return list(recipe(bases[ranks.rank]).build(folder, device=CPU, ranks=ranks))

    shares = on_ranks(len(bases), share)
    write_metadata(folder, [row for rows in shares for row in rows])
    return shares


def test_any_number_of_ranks_makes_each_batch_once_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    alone = PaintedBase(disobeys=DISOBEYS, wrong_occupation=0.1)
    rows = build(tmp_path / "1", recipe(alone))
    for num_ranks in (2, 3):
        bases = [PaintedBase(disobeys=DISOBEYS, wrong_occupation=0.1) for _ in range(num_ranks)]
        shares = build_together(tmp_path / str(num_ranks), bases)
        assert contents(tmp_path / str(num_ranks)) == contents(tmp_path / "1")
        assert all(len(share) > 0 for share in shares)
        assert sum(map(len, shares)) == len(rows)
        made = [batch for base in bases for batch in base.batches]
        assert sorted(made) == sorted(alone.batches)


@pytest.mark.parametrize("later", [1, 3])
def test_a_build_killed_on_two_ranks_is_finished_by_any_number_and_makes_no_noted_batch_again(
    tmp_path: Path, later: int
) -> None:
    alone = PaintedBase(disobeys=DISOBEYS)
    build(tmp_path / "whole", recipe(alone))
    for die_after in range(len(alone.batches) // 2):
        folder = tmp_path / f"killed-{die_after}"
        with pytest.raises(KeyboardInterrupt):
            build_together(folder, [PaintedBase(disobeys=DISOBEYS, die_after=die_after + rank) for rank in range(2)])
        noted = [read_jsonl(path) for path in [folder / ATTEMPTS, *(folder / UNDER_WAY).glob("*.jsonl")]]
        num_noted = len({json.dumps(line) for lines in noted for line in lines})
        assert num_noted >= die_after - 2  # the last one of each rank may still have been on its way
        bases = [PaintedBase(disobeys=DISOBEYS) for _ in range(later)]
        build_together(folder, bases)
        assert contents(folder) == contents(tmp_path / "whole")
        assert num_noted + sum(len(base.batches) for base in bases) <= len(alone.batches)


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
