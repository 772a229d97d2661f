from __future__ import annotations

import json

import pytest

from evenhand.bases.sd import StableDiffusion
from evenhand.bases.sdxl import StableDiffusionXL
from evenhand.data.rows import check_explicit, check_split, read_examples, read_split
from tests.tiny import PLAIN
from tests.tiny_set import tiny_set

NUM_ROWS = 12


def base_of(folder, *, kind=StableDiffusion):
    return kind(name="tiny", model=str(folder), **PLAIN)


@pytest.fixture
def changed(tmp_path):
    """A tiny set's folder, after a change to the third row of one part."""

    def change(row_changes: dict[str, object], *, split: str = "train", without: str | None = None):
        folder = tiny_set(tmp_path / "set")
        path = folder / split / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[2].update(row_changes)
        rows[2].pop(without, None)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return change


def test_rows_are_read_as_records(tiny_set_folder) -> None:
    examples = read_examples(tiny_set_folder, "train")
    assert len(examples) == NUM_ROWS
    assert (examples[0].text, examples[0].labels) == ("a portrait of a mechanic", {"presentation": "woman"})
    assert {example.text for example in read_examples(tiny_set_folder, "preserve")} >= {"", "a tree"}


def test_a_split_has_an_opened_image_for_each_row(tiny_set_folder) -> None:
    split = read_split(tiny_set_folder, "train")
    assert len(split) == len(split.images) == NUM_ROWS
    assert [image.path.name for image in split.images] == [example.file_name for example in split.examples]
    assert {(image.height_px, image.width_px) for image in split.images} == {(64, 64)}


def test_the_same_set_loads_with_plain_datasets(tiny_set_folder) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("imagefolder", data_dir=str(tiny_set_folder), split="train")
    assert list(rows["text"]) == [example.text for example in read_examples(tiny_set_folder, "train")]


def test_a_set_without_its_part_is_refused_by_name(tmp_path) -> None:
    folder = tiny_set(tmp_path / "set", preserve=False)
    assert read_examples(folder, "train")
    with pytest.raises(ValueError, match=r"has no preserve/metadata\.jsonl"):
        read_examples(folder, "preserve")


def test_a_set_without_rows_is_refused(tmp_path) -> None:
    folder = tiny_set(tmp_path / "set")
    (folder / "train" / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"train/metadata\.jsonl holds no rows"):
        read_examples(folder, "train")


@pytest.mark.parametrize(
    ("row_changes", "without", "message"),
    [
        ({}, "concept", r"metadata\.jsonl line 3 lacks concept$"),
        ({"caption": "a nurse"}, "text", r"line 3 lacks text; it has caption, which nothing reads: rename it\?"),
        (
            {"captoin": "a nurse"},
            None,
            r"line 3 has captoin, which nothing reads; remove it \(columns are file_name, text,",
        ),
        ({"text": None}, None, r"line 3: text must be text, got None"),
        ({"explicit": 7}, None, r"line 3: explicit must be text, got 7"),
        ({"file_name": "gone.png"}, None, r"line 3: image gone\.png does not exist"),
        ({"text": "  "}, None, r"line 3: the caption \(text\) of 000002\.png is empty; .*train\.caption_dropout"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(changed, row_changes, without, message) -> None:
    assert len(read_examples(changed({}), "train")) == NUM_ROWS
    with pytest.raises(ValueError, match=message):
        read_examples(changed(row_changes, without=without), "train")


def test_the_explicit_caption_is_read_where_there_is_one(changed) -> None:
    examples = read_examples(changed({}, without="explicit"), "train")
    assert examples[0].explicit == "a portrait of a female mechanic"
    assert examples[2].explicit == ""


def test_a_row_without_explicit_caption_is_refused_for_a_method_that_needs_it(changed, tiny_folder) -> None:
    base = base_of(tiny_folder)
    check_explicit(read_split(changed({}), "train"), base=base, method="distill")
    with pytest.raises(ValueError, match=r"1 of 12 rows lack explicit, .*\(first 000002\.png\), and method=distill"):
        check_explicit(read_split(changed({}, without="explicit"), "train"), base=base, method="distill")


def test_an_explicit_caption_that_is_too_long_is_refused_for_such_a_method_alone(changed, tiny_folder) -> None:
    split, base = read_split(changed({"explicit": "a " * 76}), "train"), base_of(tiny_folder)
    check_split(split, base=base, num_processes=1)
    with pytest.raises(ValueError, match=r"caption has 78 tokens, but the text encoder reads 77"):
        check_explicit(split, base=base, method="distill")


def test_an_empty_caption_is_welcome_among_the_rows_to_preserve(changed) -> None:
    assert read_examples(changed({"text": ""}, split="preserve"), "preserve")[2].text == ""


def test_an_image_that_cannot_be_read_is_refused_by_name(changed) -> None:
    folder = changed({})
    (folder / "train" / "000007.png").write_bytes(b"not an image")
    assert len(read_examples(folder, "train")) == NUM_ROWS  # opening is read_split's part
    with pytest.raises(ValueError, match=r"000007\.png cannot be read as an image"):
        read_split(folder, "train")


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_caption_that_is_too_long_is_counted_and_refused_without_loading_the_model(
    changed, tiny_folder, tiny_sdxl_folder, monkeypatch, name
) -> None:
    """``a`` is a token of the tiny tokenizer, and start and end are two more."""
    kinds = {"sd": (tiny_folder, StableDiffusion), "sdxl": (tiny_sdxl_folder, StableDiffusionXL)}
    model, kind = kinds[name]
    base = base_of(model, kind=kind)
    monkeypatch.setattr(kind, "load", None)
    longest = read_split(changed({"text": "a " * 75}), "train")
    check_split(longest, base=base, num_processes=1)
    too_long = read_split(changed({"text": "a " * 76}), "train")
    with pytest.raises(
        ValueError, match=r"train/metadata\.jsonl: caption has 78 tokens, but the text encoder reads 77"
    ):
        check_split(too_long, base=base, num_processes=1)


def test_more_processes_than_rows_are_refused(tiny_set_folder, tiny_folder) -> None:
    split = read_split(tiny_set_folder, "train")
    check_split(split, base=base_of(tiny_folder), num_processes=NUM_ROWS)
    with pytest.raises(ValueError, match=r"has 12 rows, fewer than the 13 processes .* start at most 12 processes"):
        check_split(split, base=base_of(tiny_folder), num_processes=NUM_ROWS + 1)


def test_a_base_that_is_not_there_is_named_when_captions_are_counted(tiny_set_folder, tmp_path) -> None:
    split = read_split(tiny_set_folder, "train")
    with pytest.raises(ValueError, match=r"^base tiny: model folder '.*gone' does not exist"):
        check_split(split, base=base_of(tmp_path / "gone"), num_processes=1)
