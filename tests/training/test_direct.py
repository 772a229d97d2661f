from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evenhand.adapters.lora import attach, detach, load
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.data.rows import read_split
from evenhand.methods.closed_form import ClosedForm
from evenhand.training.direct import check_direct, put, solve
from evenhand.training.settings import TrainSettings
from tests.programs.test_train_lora import command, run
from tests.tiny_training import SETTINGS, Remember

METHOD = ClosedForm(preserve_weight=0.1, ridge=1e-3)
NEUTRAL = "a portrait of a nurse"


def lora(**changes: Any) -> LoraSettings:
    return LoraSettings(**{"rank": 2, "alpha": 6.0, "targets": "cross_attention_kv", **changes})


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{**SETTINGS, "caption_dropout": 0.0, **changes})


@pytest.fixture
def splits(tiny_set_folder: Path):
    return {part: read_split(tiny_set_folder, part) for part in ("train", "preserve")}


def keys(base, caption: str) -> torch.Tensor:
    layer = base.unet.get_submodule(base.lora_targets("cross_attention_kv")[0])
    with torch.no_grad():
        return layer(base.encode_text([caption]).hidden_BLD)


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_the_adapter_adds_what_was_solved_for_whatever_its_scale(sd, splits, variant) -> None:
    settings = lora(variant=variant)
    modules = sd.lora_targets("cross_attention_kv")
    rows = {name: split.examples for name, split in splits.items()}
    solution = METHOD.solve(sd, rows, ranks=dict.fromkeys(modules, 2))
    before, k = keys(sd, NEUTRAL), sd.encode_text([NEUTRAL]).hidden_BLD
    adapter = attach(sd, settings, seed=0)
    put(adapter, solution)
    down, up = solution.factors[modules[0]]
    assert torch.allclose(keys(sd, NEUTRAL), before + k @ down.T @ up.T, atol=1e-5)
    assert not torch.allclose(keys(sd, NEUTRAL), before, atol=1e-3)
    detach(sd)
    assert weights_fingerprint(sd.unet) == sd.fingerprint


def test_solving_logs_its_figures_and_the_same_rows_give_the_same_adapter(sd, splits) -> None:
    tracker = Remember()
    found = []
    for seed in (0, 1):
        adapter, result = solve(sd, METHOD, splits, lora=lora(), seed=seed, tracker=tracker)
        found.append(adapter.tensors())
        detach(sd)
    assert (result.step, result.kept_step, result.finished) == (0, 0, True)
    assert result.loss == tracker.lines[0]["loss"]
    assert set(tracker.lines[0]) == {"loss", "error", "error_preserve", "lost"}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lora": lora(targets="attention")}, "changes cross_attention_kv alone, got lora.targets=attention"),
        ({"lora": lora(text_encoder="attention")}, "nothing for the text encoder"),
        ({"lora": lora(variant="dora")}, "a DoRA is none"),
        ({"validation": "tinytown"}, "nothing to validate"),
        ({"settings": settings(keep="best")}, "nothing to validate, choose or average"),
        ({"settings": settings(ema_decay=0.9)}, "nothing to validate, choose or average"),
        ({"settings": settings(caption_dropout=0.1)}, r"no use for train\.caption_dropout=0\.1"),
        ({"settings": settings(noise_offset=0.1)}, r"no use for train\.noise_offset=0\.1"),
        ({"settings": settings(gradient_checkpointing=True)}, r"no use for train\.gradient_checkpointing=True"),
        ({"settings": settings(compile=True)}, r"no use for train\.compile=True"),
        ({"settings": settings(shard_base=True)}, r"no use for train\.shard_base=True"),
    ],
)
def test_what_only_steps_or_other_modules_have_is_refused(splits, changed, message) -> None:
    counted: list[str] = []
    base = SimpleNamespace(check_captions=lambda captions, where: counted.extend(captions))
    good = {"base": base, "lora": lora(), "settings": settings(), "validation": None}
    check_direct(METHOD, splits, **good)  # type: ignore[arg-type]  # the few attributes that it reads
    assert "a portrait of a female nurse" in counted
    with pytest.raises(ValueError, match=message):
        check_direct(METHOD, splits, **{**good, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tiny_folder, tiny_set_folder, tmp_path_factory) -> Path:
    """The run folder of train/lora.py method=closed_form."""
    home = tmp_path_factory.mktemp("direct")
    code, out, err = run(command(tiny_folder, tiny_set_folder, "method=closed_form", "run_name=direct"), home)
    assert code == 0, err
    assert "steps: 0" in out
    return home / "runs" / "default" / "direct"


def test_the_program_leaves_an_adapter_folder_like_a_trainings(made) -> None:
    card = json.loads((made / "adapter" / "card.json").read_text())
    assert (card["method"], card["steps"], card["targets"]) == ("closed_form", 0, "cross_attention_kv")
    assert json.loads((made / "provenance.json").read_text())["finished"] is not None
    line = json.loads((made / "metrics.jsonl").read_text())
    result = json.loads((made / "result.json").read_text())
    assert line["step"] == 0
    assert 0.0 < line["loss"] < 1.0
    assert result["loss"] == line["loss"]
    assert "by the method `closed_form`, without steps" in (made / "adapter" / "README.md").read_text()
    assert not (made / "checkpoints").exists()


def test_the_file_loads_and_changes_neutral_captions_keys(made, sd) -> None:
    before = keys(sd, NEUTRAL)
    load(sd, made / "adapter")
    assert not torch.allclose(keys(sd, NEUTRAL), before, atol=1e-3)


def test_the_same_command_again_returns_at_once(made, tiny_folder, tiny_set_folder) -> None:
    weights = made / "adapter" / "pytorch_lora_weights.safetensors"
    before = weights.stat().st_mtime_ns
    home = made.parent.parent.parent
    code, _, err = run(command(tiny_folder, tiny_set_folder, "method=closed_form", "run_name=direct"), home)
    assert code == 0, err
    assert weights.stat().st_mtime_ns == before
