from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenhand.evaluation.overlap import (
    CAPTIONS_FILE,
    TrainingCaptions,
    text_key,
    training_captions,
    without_overlap,
    write_captions,
)
from evenhand.evaluation.suites import PlannedPrompt
from evenhand.files import sha256_path
from evenhand.records import Prompt

CAPTIONS = {"train": ["a portrait of a mechanic", ""], "preserve": ["a photo of a car", "a meetup of pyladies"]}


def planned(suite: str, text: str) -> PlannedPrompt:
    return PlannedPrompt(prompt=Prompt(id=f"{suite}-{text}", text=text, concept="x", suite=suite), num_seeds=3)


def captions_of(tmp_path: Path) -> TrainingCaptions:
    write_captions(tmp_path, CAPTIONS)
    found = training_captions(tmp_path / "pytorch_lora_weights.safetensors")
    assert found is not None
    return found


def curated_set(folder: Path) -> Path:
    for split, texts in CAPTIONS.items():
        (folder / split).mkdir(parents=True)
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "A  Portrait of a Mechanic.",
        "a portrait of a mechanic",
        "a portrait, of a MECHANIC!",
        "a por\uff54rait of a mechanic",
    ],
)
def test_a_text_is_found_again_whatever_its_case_spacing_and_punctuation(text: str) -> None:
    assert text_key(text) == "a portrait of a mechanic"


@pytest.mark.parametrize(
    "text", ["a portrait of mechanics", "a portrait of a mechanic at work", "a photo of a mechanic"]
)
def test_another_wording_is_another_text(text: str) -> None:
    assert text_key(text) != text_key("a portrait of a mechanic")


def test_unseen_suites_lose_what_training_showed_and_others_are_counted(tmp_path: Path) -> None:
    prompts = [
        planned("heldout", "A portrait of a mechanic!"),
        planned("heldout", "a portrait of a pilot"),
        planned("offtemplate", "a photo of a car"),
        planned("train", "a portrait of a mechanic"),
        planned("unrelated", "a photo of a car"),
        planned("unrelated", "a photo of a cup"),
    ]
    overlap = without_overlap(prompts, captions_of(tmp_path), headline_suite="heldout")
    assert [entry.prompt.text for entry in overlap.prompts] == [
        "a portrait of a pilot",
        "a portrait of a mechanic",
        "a photo of a car",
        "a photo of a cup",
    ]
    assert [(row["prompt"]["suite"], row["seeds"], row["split"]) for row in overlap.excluded] == [
        ("heldout", 3, "train"),
        ("offtemplate", 3, "preserve"),
    ]
    assert overlap.seen == {"train": {"prompts": 1, "of": 1}, "unrelated": {"prompts": 1, "of": 2}}


def test_without_a_common_text_everything_stays(tmp_path: Path) -> None:
    prompts = [planned("heldout", "a portrait of a pilot"), planned("offtemplate", "an oil painting of a mechanic")]
    overlap = without_overlap(prompts, captions_of(tmp_path), headline_suite="heldout")
    assert (list(overlap.prompts), overlap.excluded, overlap.seen) == (prompts, (), {})


def test_any_suite_is_held_to_be_unseen_when_it_is_the_headline(tmp_path: Path) -> None:
    prompts = [planned("groups", "a meetup of pyladies"), planned("groups", "a group of pyladies")]
    as_headline = without_overlap(prompts, captions_of(tmp_path), headline_suite="groups")
    assert [entry.prompt.text for entry in as_headline.prompts] == ["a group of pyladies"]
    beside = without_overlap([*prompts, planned("heldout", "x")], captions_of(tmp_path), headline_suite="heldout")
    assert len(beside.prompts) == 3
    assert beside.seen["groups"] == {"prompts": 1, "of": 2}


def test_a_headline_of_which_nothing_remains_is_refused(tmp_path: Path) -> None:
    prompts = [planned("train", "a portrait of a mechanic"), planned("heldout", "a portrait of a pilot")]
    with pytest.raises(ValueError, match="every prompt of the headline's suite train occurs"):
        without_overlap(prompts, captions_of(tmp_path), headline_suite="train")


def test_captions_beside_the_adapter_come_back_without_the_empty_one(tmp_path: Path) -> None:
    found = captions_of(tmp_path)
    assert json.loads((tmp_path / CAPTIONS_FILE).read_text())["train"] == ["a portrait of a mechanic"]
    assert found.facts() | {"sha256": ""} == {"sha256": "", "train": 1, "preserve": 2, "source": CAPTIONS_FILE}
    assert training_captions(tmp_path) == found


def test_captions_of_another_tool_are_given(tmp_path: Path) -> None:
    adapter = tmp_path / "other.safetensors"
    (tmp_path / "captions.txt").write_text("a portrait of a mechanic\n\n")
    from_text = training_captions(adapter, tmp_path / "captions.txt")
    from_set = training_captions(adapter, curated_set(tmp_path / "set"))
    from_rows = training_captions(adapter, tmp_path / "set" / "train" / "metadata.jsonl")
    assert from_text is not None
    assert from_set is not None
    assert from_rows is not None
    assert from_text.by_split == from_rows.by_split == {"train": {"a portrait of a mechanic"}}
    assert from_set.split_of("a photo of a CAR") == "preserve"
    with pytest.raises(ValueError, match="nowhere does not exist"):
        training_captions(adapter, tmp_path / "nowhere")


def test_an_older_adapter_is_judged_by_its_curated_set_as_long_as_that_is_the_same(tmp_path: Path) -> None:
    data, folder = curated_set(tmp_path / "set"), tmp_path / "training" / "adapter"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"data_sha256": sha256_path(data)}))
    (folder.parent / "provenance.json").write_text(json.dumps({"inputs": {"data": {"path": data.as_posix()}}}))
    found = training_captions(folder)
    assert found is not None
    assert found.split_of("a portrait of a mechanic") == "train"
    (data / "train" / "metadata.jsonl").write_text('{"text": "something else"}\n')
    assert training_captions(folder) is None


def test_of_an_adapter_that_says_nothing_nothing_is_known(tmp_path: Path) -> None:
    assert training_captions(tmp_path / "other.safetensors") is None
