"""`SelfGenerated` on a base that paints what it is asked for, with a known chance to disobey, read by its colours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evenhand.files import read_jsonl
from evenhand.processes import Ranks
from evenhand.recipes.attempts import ATTEMPTS, UNDER_WAY
from evenhand.recipes.curated_set import write_metadata
from evenhand.recipes.preserve import Preserve
from evenhand.records import Example, SubjectReading
from tests.painted import OCCUPATIONS, PaintedBase, PaintedReader
from tests.rank_threads import on_ranks
from tests.recipes.painted_recipe import CPU, build, contents, painted_presentation, recipe


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
        assert explicit["text"] == neutral["explicit"] != neutral["text"]
        same = [(tmp_path / part / neutral["file_name"]).read_bytes() for part in ("train", "preserve")]
        assert same[0] == same[1]
    assert all((tmp_path / "preserve" / row["file_name"]).is_file() for row in preserve)
    assert {row["explicit"] for row in preserve} == {""}  # their own text is what counts


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
