"""The model card as Hugging Face reads it, and what is said in it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from evenhand.adapters.card import first_captions, is_public, model_card, public_model, read_card
from evenhand.adapters.file import WEIGHTS_NAME
from evenhand.records import Example
from tests.adapters.test_lora import CARD
from tests.adapters.variants import settings, trained
from tests.report.full_folder import full_folder

FACTS: dict[str, Any] = {
    "name": "even-handed mechanics",
    "base": "sd15",
    "base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "base_license": "creativeml-openrail-m",
    "method": "curated",
    "steps": 600,
    "seed": 3,
    "concepts": ["mechanic", "nurse"],
    "prompts": ["a portrait of a mechanic", "a nurse's day"],
    "data_sha256": "d" * 64,
    "config_sha256": "c" * 64,
    "training_readers": [],
    "version": "0.1.0",
    "base_fingerprint": "f" * 64,
    "zero_terminal_snr": False,
    "rank": 8,
    "alpha": 8.0,
    "variant": "lora",
    "init": "kaiming",
    "targets": "attention",
    "text_encoder": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "num_modules": 128,
    "num_parameters": 1_594_368,
    "weights_sha256": "e" * 64,
}


def parsed(text: str) -> ModelCard:
    return ModelCard(text)


def code_of(text: str) -> str:
    return text.partition("```python\n")[2].partition("```")[0]


def test_the_hubs_own_parser_finds_base_licence_tags_prompts_and_task() -> None:
    card = parsed(model_card(FACTS, license="openrail++")).data
    assert card.base_model == FACTS["base_model"]
    assert card.license == "openrail++"
    assert card.pipeline_tag == "text-to-image"
    assert card.library_name == "diffusers"
    assert {"lora", "debiasing", "evenhand"} <= set(card.tags)
    assert card.to_dict()["widget"] == [{"text": "a portrait of a mechanic"}, {"text": "a nurse's day"}]
    assert card.to_dict()["base_model_relation"] == "adapter"


def test_it_says_what_it_is_for_what_it_is_not_for_and_what_was_not_measured() -> None:
    text = model_card(FACTS)
    for phrase in (
        "not for judging, counting or identifying real people",
        "mechanic, nurse",
        "Nothing was measured yet",
        "The base: creativeml-openrail-m",
        "The adapter: not chosen yet",
        "128 modules",
        "1,594,368 parameters",
        "at scale 0 its images come out bit for bit",
        *(FACTS[key] for key in ("weights_sha256", "data_sha256", "config_sha256", "base_fingerprint")),
    ):
        assert phrase in text, phrase
    assert "license:" not in text.partition("---\n\n")[0]


def test_the_code_of_a_card_is_python_and_names_the_base_and_a_prompt() -> None:
    plain = code_of(model_card(FACTS))
    rescaled = code_of(model_card({**FACTS, "zero_terminal_snr": True}))
    packaged = code_of(model_card({**FACTS, "base_model": "evenhand:tinytown/base"}))
    for code in (plain, rescaled, packaged):
        ast.parse(code)
        assert "load_lora_weights" in code
        assert "a portrait of a mechanic" in code
    assert FACTS["base_model"] in plain
    assert "rescale_betas_zero_snr=True" in rescaled
    assert "rescale_betas_zero_snr" not in plain
    assert 'model_path("evenhand:tinytown/base")' in packaged


def test_a_packaged_base_is_not_given_as_a_repository_of_the_hub() -> None:
    head = yaml.safe_load(model_card({**FACTS, "base_model": "evenhand:tinytown/base"}).split("---\n")[1])
    assert "base_model" not in head


def test_a_dora_is_not_said_to_vanish_at_scale_zero() -> None:
    text = model_card({**FACTS, "variant": "dora"})
    assert "a DoRA at scale 0 is not the base" in text
    assert "bit for bit" not in text


def test_a_measured_adapter_shows_every_row_of_its_evaluation_with_its_interval(tmp_path: Path) -> None:
    from evenhand.report.render import write_report

    folder = full_folder(tmp_path / "run")
    write_report(folder)
    snippet = yaml.safe_load((folder / "card_snippet.yaml").read_text())
    text = model_card(FACTS, license="mit", measured=snippet)
    rows = [line for line in text.splitlines() if line.startswith("| heldout |")]
    metrics = [
        m for r in snippet["model-index"][0]["results"] if r["dataset"]["config"] == "heldout" for m in r["metrics"]
    ]
    assert len(rows) == len(metrics) > 5
    assert any("95 % interval" in row for row in rows)
    assert "Nothing was measured yet" not in text
    results = parsed(text).data.eval_results
    assert results is not None
    assert len(results) > 10
    assert parsed(text).data.model_name == FACTS["name"]


def test_first_captions_are_one_of_each_of_the_first_concepts() -> None:
    rows = [("b", "a b"), ("b", "another b"), ("a", ""), ("a", "an a"), ("c", "a c"), ("d", "a d")]
    examples = [
        Example(
            file_name="x.png", text=text, concept=concept, labels={}, template="", source="", seed=0, license="cc0-1.0"
        )
        for concept, text in rows
    ]
    assert first_captions(examples) == ("a b", "an a", "a c")
    assert first_captions([]) == ()


def test_a_folder_of_this_machine_is_named_without_its_place(tmp_path: Path) -> None:
    assert public_model(str(tmp_path / "my-model")) == "my-model"
    assert public_model("evenhand:tinytown/base") == "evenhand:tinytown/base"
    assert public_model("somebody/some-model") == "somebody/some-model"
    assert not is_public("my-model")


def test_no_path_of_this_machine_is_in_a_saved_adapter(sd, tmp_path: Path) -> None:
    from dataclasses import replace

    path = trained(sd, "plain").save(tmp_path / "adapter", replace(CARD, base_model=str(tmp_path / "secret" / "tiny")))
    for file in (path, path.parent / "card.json", path.parent / "README.md"):
        assert str(tmp_path).encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["plain", "text_rslora_patterns", "text_dora"])
def test_the_saved_card_says_what_was_attached(sd, tmp_path: Path, name: str) -> None:
    adapter = trained(sd, name)
    adapter.save(tmp_path, CARD)
    facts, chosen = json.loads((tmp_path / "card.json").read_text()), settings(name)
    assert (facts["variant"], facts["text_encoder"]) == (chosen.variant, chosen.text_encoder)
    assert facts["rank_pattern"] == (chosen.rank_pattern or {})
    assert facts["num_parameters"] == sum(value.numel() for value in adapter.tensors().values())
    kind = {"lora": "a LoRA of rank 4", "rslora": "a rsLoRA of rank 4", "dora": "a DoRA of rank 4"}[chosen.variant]
    text = (tmp_path / "README.md").read_text()
    assert kind in text
    assert ("the UNet and the text encoder" in text) == (chosen.text_encoder != "none")
    assert (tmp_path / WEIGHTS_NAME).stat().st_size > 0


def test_a_card_that_lacks_something_is_refused_by_what_it_lacks(sd, tmp_path: Path) -> None:
    trained(sd, "plain").save(tmp_path, CARD)
    facts = json.loads((tmp_path / "card.json").read_text())
    assert read_card(tmp_path) == facts
    assert set(FACTS) == set(facts)
    (tmp_path / "card.json").write_text(json.dumps({k: v for k, v in facts.items() if k not in ("variant", "prompts")}))
    with pytest.raises(ValueError, match=r"card\.json lacks prompts, variant: an earlier version wrote it"):
        read_card(tmp_path)


def test_readers_that_chose_the_weights_are_named_and_otherwise_nothing_is_said() -> None:
    text = model_card({**FACTS, "training_readers": ["one", "two"]})
    assert "| chosen by the readers | one, two (no independent judges of it) |" in text
    assert "chosen by the readers" not in model_card(FACTS)
