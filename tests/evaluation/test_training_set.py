"""Which pictures an adapter was trained on, as far as its own files tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenhand.evaluation.training_set import set_of_training_run, training_reader, training_set
from evenhand.files import sha256_path


def trained(folder: Path) -> tuple[Path, Path]:
    """A curated set of one file, and the adapter of a run that was trained on it."""
    data, adapter = folder / "set", folder / "run" / "adapter"
    (data / "train").mkdir(parents=True)
    (data / "train" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a mechanic"}\n')
    adapter.mkdir(parents=True)
    (adapter / "weights.safetensors").write_bytes(b"")
    (adapter / "card.json").write_text(json.dumps({"data_sha256": sha256_path(data)}))
    provenance = {"inputs": {"data": {"path": data.as_posix(), "sha256": sha256_path(data)}}}
    (adapter.parent / "provenance.json").write_text(json.dumps(provenance))
    return data, adapter


def test_the_set_is_the_one_that_the_training_run_names(tmp_path: Path) -> None:
    data, adapter = trained(tmp_path)
    for given in (adapter, adapter / "weights.safetensors"):
        found = training_set(given, "auto", scored=True)
        assert found.folder == data
        assert "what the adapter was trained on" in found.why


@pytest.mark.parametrize("missing", ["set/train/metadata.jsonl", "run/provenance.json", "run/adapter/card.json"])
def test_without_any_of_the_three_nothing_is_compared_and_that_is_said(tmp_path: Path, missing: str) -> None:
    _, adapter = trained(tmp_path)
    (tmp_path / missing).unlink()
    found = training_set(adapter, "auto", scored=True)
    assert found.folder is None
    assert "not looked for (training_set=<folder> names it)" in found.why


def test_a_set_that_has_changed_since_is_not_what_the_adapter_was_trained_on(tmp_path: Path) -> None:
    data, adapter = trained(tmp_path)
    assert set_of_training_run(adapter) == data
    (data / "train" / "more.png").write_bytes(b"x")
    assert set_of_training_run(adapter) is None


def test_what_the_user_says_goes_before_what_the_run_says(tmp_path: Path) -> None:
    _, adapter = trained(tmp_path)
    assert training_set(adapter, "elsewhere", scored=True).folder == Path("elsewhere")
    off = training_set(adapter, None, scored=True)
    assert off.folder is None
    assert "training_set=null" in off.why


def test_without_a_scorer_nothing_is_compared_and_a_set_that_is_named_is_refused(tmp_path: Path) -> None:
    _, adapter = trained(tmp_path)
    found = training_set(adapter, "auto", scored=False)
    assert found.folder is None
    assert "scorer=none" in found.why
    with pytest.raises(ValueError, match=r"training_set=elsewhere .* scorer=none"):
        training_set(adapter, "elsewhere", scored=False)


def test_the_training_reader_is_the_one_that_the_card_names_unless_the_user_names_another(tmp_path: Path) -> None:
    _, adapter = trained(tmp_path)
    for named, wanted in ((["a"], "a"), ([], None), (["a", "b"], "b"), (["a", "c"], "a")):
        (adapter / "card.json").write_text(json.dumps({"training_readers": named}))
        for given in (adapter, adapter / "weights.safetensors"):
            assert training_reader(given, None, reader="b") == wanted
        assert training_reader(adapter, "another", reader="b") == "another"


@pytest.mark.parametrize("card", [None, "{}"], ids=["no card", "a card of another tool"])
def test_without_a_word_of_it_on_the_card_there_is_no_training_reader(tmp_path: Path, card: str | None) -> None:
    _, adapter = trained(tmp_path)
    (adapter / "card.json").unlink()
    if card is not None:
        (adapter / "card.json").write_text(card)
    assert training_reader(adapter, None, reader="b") is None
