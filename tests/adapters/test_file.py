"""The adapter's file: what its header holds, byte for byte, and what is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenhand.adapters.file import SETTINGS_KEY, read_adapter, safetensors_bytes
from evenhand.adapters.lora import attach, load
from tests.adapters.test_lora import CARD, prediction
from tests.adapters.variants import VARIANTS, settings, trained
from tests.tiny import load_sd

SAVE = """
import sys
from pathlib import Path
from evenhand.adapters.lora import attach
from tests.adapters.test_lora import CARD
from tests.adapters.variants import settings
from tests.tiny import load_sd, randomize

adapter = attach(load_sd(Path(sys.argv[1])), settings(sys.argv[2]), seed=0)
randomize(adapter)
sys.stdout.buffer.write(adapter.save(Path(sys.argv[3]), CARD).read_bytes())
"""


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata())


def lora_settings(path: Path) -> dict[str, Any]:
    return json.loads(header(path)[SETTINGS_KEY])


def rewritten(path: Path, to: Path, *, tensors: dict[str, torch.Tensor] | None = None, **changed: Any) -> Path:
    """The file with other tensors or settings; a setting of None is taken out."""
    head = header(path)
    lora = {**json.loads(head[SETTINGS_KEY]), **{key.replace("__", "."): value for key, value in changed.items()}}
    head[SETTINGS_KEY] = json.dumps({key: value for key, value in lora.items() if value is not None})
    save_file(load_file(path) if tensors is None else tensors, to, metadata=head)
    return to


@pytest.mark.parametrize("name", VARIANTS)
def test_the_header_holds_what_is_not_a_default_and_no_more(sd, tmp_path, name) -> None:
    path = trained(sd, name).save(tmp_path, CARD)
    wanted = {f"{part}.{key}" for part in ("unet",) for key in ("r", "lora_alpha", "target_modules")}
    chosen = settings(name)
    if chosen.text_encoder != "none":
        wanted |= {f"text_encoder.{key}" for key in ("r", "lora_alpha", "target_modules")}
    parts = {key.partition(".")[0] for key in wanted}
    if chosen.variant != "lora":
        wanted |= {f"{part}.use_{chosen.variant}" for part in parts}
    if chosen.rank_pattern:
        wanted |= {f"{part}.{key}" for part in parts for key in ("rank_pattern", "alpha_pattern")}
    assert set(lora_settings(path)) == wanted
    assert json.dumps(lora_settings(path), sort_keys=True) == header(path)[SETTINGS_KEY]


def test_patterns_reach_the_modules_that_they_name(sd, tmp_path) -> None:
    """The expected ranks are written out by hand: to_v 2, attn2.to_k 6, fc1 3, all others 4."""
    tensors = load_file(trained(sd, "text_feedforward_patterns").save(tmp_path, CARD))
    ranks = {key.removesuffix(".lora_A.weight"): len(value) for key, value in tensors.items() if ".lora_A." in key}

    def wanted(module: str) -> int:
        if module.endswith("to_v"):
            return 2
        return 6 if module.endswith("attn2.to_k") else 3 if module.endswith("fc1") else 4

    assert ranks == {module: wanted(module) for module in ranks}
    assert set(ranks.values()) == {2, 3, 4, 6}


def test_a_text_encoders_names_are_those_of_everybodys_files(sd, tmp_path) -> None:
    keys = load_file(trained(sd, "text").save(tmp_path, CARD))
    text = sorted(key for key in keys if not key.startswith("unet."))
    projections = ("k_proj", "out_proj", "q_proj", "v_proj")
    assert text == sorted(
        f"text_encoder.text_model.encoder.layers.{layer}.self_attn.{projection}.lora_{side}.weight"
        for layer in range(2)
        for projection in projections
        for side in "AB"
    )


@pytest.mark.slow
def test_three_hash_seeds_give_the_same_bytes(tiny_folder, tmp_path) -> None:
    files = set()
    for seed in ("0", "1", "2"):
        arguments = [sys.executable, "-c", SAVE, str(tiny_folder), "text_feedforward_patterns", str(tmp_path / seed)]
        environment = {"PYTHONHASHSEED": seed, "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            arguments, env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        files.add(done.stdout)
    assert len(files) == 1
    assert len(files.pop()) > 10_000


def test_what_was_read_says_where_every_tensor_belongs(sd, tmp_path) -> None:
    adapter = trained(sd, "text_rslora_patterns")
    content = read_adapter(adapter.save(tmp_path, CARD))
    assert content.placements == adapter.placements
    for key, parameter in adapter.keyed().items():
        assert torch.equal(content.tensors[key], parameter)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    assert content.placements["unet"].scale(name) == pytest.approx(6.0 / 6**0.5)


UNET_MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unet__r": 8}, r"header and tensors disagree about unet\.down_blocks.*: rank 8 and 4"),
        ({"unet__use_dora": True}, r"disagree about unet: use_dora is True, but there are no magnitudes"),
        ({"unet__target_modules": ["to_q"]}, r"it has tensors for unet\.\S+, but its header does not"),
        (
            {"unet__target_modules": ["to_q", "to_k", "to_v", "to_out.0", "nowhere"]},
            r"names unet\.nowhere, but it has no",
        ),
        ({"unet__lora_alpha": None}, r"its header lacks unet\.lora_alpha"),
        ({"text_encoder__r": 4}, r"header and tensors disagree, only one of them speaks of text_encoder"),
        ({"unet__use_bdlora": {"x": 1}}, r"was made with use_bdlora=\{'x': 1\}, which is not understood here"),
    ],
)
def test_a_header_that_contradicts_its_tensors_is_refused_in_one_line(sd, tmp_path, changed, message) -> None:
    path = trained(sd, "plain").save(tmp_path / "adapter", CARD)
    clashing = rewritten(path, tmp_path / "clashing.safetensors", **changed)
    base = sd
    with pytest.raises(ValueError, match=message) as caught:
        load(base, clashing)
    assert "\n" not in str(caught.value)


def test_text_weights_without_settings_of_theirs_are_refused(sd, tmp_path) -> None:
    path = trained(sd, "text").save(tmp_path / "adapter", CARD)
    names = ("text_encoder__r", "text_encoder__lora_alpha", "text_encoder__target_modules")
    clashing = rewritten(path, tmp_path / "clashing.safetensors", **dict.fromkeys(names))
    with pytest.raises(ValueError, match="only one of them speaks of text_encoder"):
        load(sd, clashing)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (
            lambda key: not key.endswith(f"{UNET_MODULE}.lora_A.weight"),
            r"has lora_B\.weight, but lora_A\.weight and lora_B",
        ),
        (lambda key: UNET_MODULE not in key, r"its header names unet\.\S+, but it has no tensors for it"),
    ],
)
def test_a_tensor_that_is_lost_is_named(sd, tmp_path, keep, message) -> None:
    path = trained(sd, "plain").save(tmp_path / "adapter", CARD)
    tensors = {key: value for key, value in load_file(path).items() if keep(key)}
    with pytest.raises(ValueError, match=message):
        load(sd, rewritten(path, tmp_path / "torn.safetensors", tensors=tensors))


def test_ranks_that_differ_within_a_module_are_refused(sd, tmp_path) -> None:
    path = trained(sd, "plain").save(tmp_path / "adapter", CARD)
    tensors = load_file(path)
    key = f"unet.{UNET_MODULE}.lora_B.weight"
    tensors[key] = tensors[key][:, :2].contiguous()
    with pytest.raises(ValueError, match=r"has rank 4 in lora_A\.weight and 2 in lora_B\.weight"):
        load(sd, rewritten(path, tmp_path / "odd.safetensors", tensors=tensors))


@pytest.mark.parametrize("content", [b"", b"not a file of tensors at all", b"\x08" + 7 * b"\0" + b"{}      "])
def test_what_is_no_file_of_tensors_is_one_clear_line(tmp_path, content) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no safetensors file|holds no tensors"):
        read_adapter(path)


def test_a_header_that_is_no_json_is_refused(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {f"unet.{UNET_MODULE}.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}
    path.write_bytes(safetensors_bytes(tensors, {SETTINGS_KEY: "{"}))
    with pytest.raises(ValueError, match="are no JSON object"):
        read_adapter(path)


@pytest.mark.parametrize("converted", [False, True])
def test_files_that_diffusers_saves_itself_can_be_loaded(sd, tiny_folder, tmp_path, converted) -> None:
    """With all of PEFT's settings in the header, and with the names that its training scripts give the keys."""
    adapter = trained(sd, "plain")
    weights = get_peft_model_state_dict(sd.unet, adapter_name="default")
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=convert_state_dict_to_diffusers(weights) if converted else weights,
        unet_lora_adapter_metadata=sd.unet.peft_config["default"].to_dict(),
    )
    base = load_sd(tiny_folder)
    loaded = load(base, tmp_path, check_base=False)
    assert torch.equal(prediction(base), prediction(sd))
    assert loaded.placements == adapter.placements


def test_a_file_without_settings_is_taken_as_loaders_take_it(sd, tiny_folder, tmp_path) -> None:
    """Alpha is the rank, for every module its own."""
    path = trained(sd, "text_feedforward_patterns").save(tmp_path / "adapter", CARD)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(path), bare)
    base, stock = load_sd(tiny_folder), StableDiffusionPipeline.from_pretrained(tiny_folder)
    load(base, bare, check_base=False)
    stock.load_lora_weights(tmp_path, weight_name="bare.safetensors")
    for module in ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", UNET_MODULE):
        ours, theirs = (unet.get_submodule(module) for unet in (base.unet, stock.unet))
        assert list(ours.scaling.values()) == list(theirs.scaling.values()) == [1.0]


def test_keys_of_another_format_are_refused_with_the_format_that_is_read(sd, tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(4, 32)}, path)
    with pytest.raises(ValueError, match=r"is no key of diffusers, unet\.<module>\.lora_A\.weight"):
        load(sd, path, check_base=False)


def test_a_file_for_a_part_that_the_base_does_not_have_is_refused(sd, sdxl, tmp_path) -> None:
    path = trained(sdxl, "text").save(tmp_path, CARD)
    with pytest.raises(ValueError, match="is also for text_encoder_2, which base tiny does not have"):
        load(sd, path, check_base=False)


def test_a_fresh_adapter_is_what_its_settings_ask_for(sd) -> None:
    adapter = attach(sd, settings("text_dora"), seed=0)
    assert adapter.trains_text
    assert all(placement.dora for placement in adapter.placements.values())
