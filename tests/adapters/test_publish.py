"""Publishing: what would be sent is listed; what is sent goes over HTTP to a server of this test, never elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenhand.adapters.publish import KOHYA_NAME, prepare
from evenhand.evaluation.overlap import write_captions
from tests.adapters.test_lora import CARD
from tests.adapters.variants import trained
from tests.hub import TOKEN, Requests, created, run_with_hub, running_hub, sent_files
from tests.report.full_folder import full_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "publish_adapter.py"
REPO = "somebody/even-handed-mechanics"
FILES = ["README.md", "captions.json", "card.json", KOHYA_NAME, "pytorch_lora_weights.safetensors"]


@pytest.fixture
def adapter(sd, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    trained(sd, "plain").save(folder, CARD)
    write_captions(folder, {"train": ["a mechanic"]})
    return folder


@pytest.fixture
def hub() -> Iterator[tuple[str, Requests]]:
    with running_hub() as here:
        yield here


def publish(folder: Path, address: str, *overrides: str, token: str = TOKEN) -> tuple[int, str, str]:
    arguments = ("adapter=adapter", f"repo={REPO}", "license=openrail++", *overrides)
    return run_with_hub(SCRIPT, *arguments, folder=folder, address=address, token=token)


def test_without_being_told_nothing_is_sent_and_every_file_is_listed_with_its_size(adapter, tmp_path, hub) -> None:
    address, requests = hub
    code, out, err = publish(tmp_path, address)
    assert code == 0, err
    assert requests == []
    assert f"would upload to {REPO} (private):" in out
    assert [line.split()[-1] for line in out.splitlines() if " bytes  " in line] == FILES
    size = (adapter / "pytorch_lora_weights.safetensors").stat().st_size
    assert f"{size:,} bytes" in out
    assert "license: openrail++" in out
    assert out.rstrip().endswith("nothing was sent (dry_run=false sends it)")


def test_what_is_sent_is_what_was_listed_byte_for_byte(adapter, tmp_path, hub) -> None:
    address, requests = hub
    code, out, err = publish(tmp_path, address, "dry_run=false")
    assert code == 0, err
    assert f"published: {address}/{REPO}/commit/1" in out
    files = sent_files(requests)
    assert sorted(files) == FILES
    for name in ("pytorch_lora_weights.safetensors", "card.json", "captions.json"):
        assert files[name] == (adapter / name).read_bytes()
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (head["license"], head["base_model"]) == ("openrail++", CARD.base_model)
    asked = created(requests)
    assert "private" in (asked.get("visibility"), "private" if asked.get("private") else "public")
    assert (asked["organization"], asked["name"]) == tuple(REPO.split("/"))


def test_a_refusal_of_the_hub_is_one_line(adapter, tmp_path, hub) -> None:
    address, _ = hub
    code, out, err = publish(tmp_path, address, "dry_run=false", token="hf_another")
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"{REPO} was not uploaded" in errors[0]
    assert "published" not in out


@pytest.mark.parametrize("repo", ["nobody", "a/b/c", "../x", "a/b c", "a/-b", "a/b--c"])
def test_what_is_no_repository_is_refused(adapter, tmp_path, repo) -> None:
    with pytest.raises(ValueError, match="repo must be <user or organisation>/<name>"):
        prepare(adapter, tmp_path / "up", repo=repo, license="mit", evaluation=None, with_kohya=False)
    assert not (tmp_path / "up").exists()


def test_weights_that_are_not_the_cards_are_refused(adapter, tmp_path) -> None:
    card = json.loads((adapter / "card.json").read_text())
    (adapter / "card.json").write_text(json.dumps({**card, "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="card.json is of weights 000000000000, but they are"):
        prepare(adapter, tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)


def test_a_base_that_only_this_machine_has_is_refused(sd, tmp_path) -> None:
    trained(sd, "plain").save(tmp_path / "adapter", replace(CARD, base_model=str(tmp_path / "models" / "mine")))
    with pytest.raises(ValueError, match="base_model='mine', a folder of one machine"):
        prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)


def test_a_dora_is_published_without_the_file_that_others_would_misread(sd, tmp_path) -> None:
    trained(sd, "dora").save(tmp_path / "adapter", CARD)
    with pytest.raises(ValueError, match="with_kohya=false"):
        prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=True)
    upload = prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)
    assert KOHYA_NAME not in [name for name, _, _ in upload.files]


def test_an_evaluation_of_this_adapter_goes_on_the_card_and_one_of_another_is_refused(adapter, tmp_path) -> None:
    from evenhand.files import sha256_file
    from evenhand.report.render import write_report

    other = full_folder(tmp_path / "run")
    write_report(other)
    arguments: dict[str, Any] = {"repo": REPO, "license": "mit", "evaluation": other, "with_kohya": False}
    with pytest.raises(ValueError, match="measured adapter .*, but this one is"):
        prepare(adapter, tmp_path / "up", **arguments)
    snippet = (other / "card_snippet.yaml").read_text()
    measured = yaml.safe_load(snippet)["model-index"][0]["results"][0]["dataset"]["args"]["adapter_sha256"]
    (other / "card_snippet.yaml").write_text(
        snippet.replace(measured, sha256_file(adapter / "pytorch_lora_weights.safetensors"))
    )
    prepare(adapter, tmp_path / "up", **arguments)
    assert "| heldout |" in (tmp_path / "up" / "README.md").read_text()
    with pytest.raises(ValueError, match="has no card_snippet.yaml"):
        prepare(adapter, tmp_path / "up", **{**arguments, "evaluation": tmp_path})
