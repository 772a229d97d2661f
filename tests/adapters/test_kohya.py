"""The layout of ComfyUI and A1111: names, alpha, and what diffusers makes of it again.

Expected names are written from the block lists of the published configurations, not from the modules of a UNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenhand.adapters.kohya import kohya_bytes, kohya_names
from evenhand.adapters.lora import detach
from evenhand.adapters.placement import placements_of
from evenhand.adapters.settings import LoraSettings
from tests.adapters.test_lora import CARD, prediction
from tests.adapters.variants import VARIANTS, settings, trained
from tests.bases.test_architectures import CONFIGS, Shell, unet_of

NOT_DORA = [name for name in VARIANTS if settings(name).variant != "dora"]
ENDS = ("alpha", "lora_down.weight", "lora_up.weight")
ATTENTION = [f"attn{number}_{end}" for number in (1, 2) for end in ("to_q", "to_k", "to_v", "to_out_0")]
FEEDFORWARD = ["ff_net_0_proj", "ff_net_2"]


def exported(path: Path, to: Path) -> dict[str, torch.Tensor]:
    to.write_bytes(kohya_bytes(path))
    return load_file(to)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("name", NOT_DORA)
def test_diffusers_reads_the_exported_file_as_the_same_adapter(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, family: str
) -> None:
    base: Any = request.getfixturevalue(family)
    before = prediction(base)
    path = trained(base, name).save(tmp_path / "adapter", CARD)
    adapted = prediction(base)
    detach(base)
    tensors = exported(path, tmp_path / "exported.safetensors")
    assert len(tensors) == 3 * len(load_file(path)) / 2
    base.pipeline.load_lora_weights(tmp_path, weight_name="exported.safetensors")
    assert (prediction(base) - adapted).abs().max() <= 1e-6 * max(1.0, adapted.abs().max().item())
    assert (before - adapted).abs().max() > 0.01


@pytest.mark.parametrize(("name", "alpha"), [("plain", 6.0), ("text", 6.0), ("rslora", 12.0)])
def test_alpha_is_the_true_one_and_the_weights_are_untouched_where_all_modules_share_it(
    sd, tmp_path, name, alpha
) -> None:
    """rsLoRA: 6 / sqrt(4) = 12 / 4."""
    path = trained(sd, name).save(tmp_path, CARD)
    tensors = exported(path, tmp_path / "exported.safetensors")
    assert {value.item() for key, value in tensors.items() if key.endswith(".alpha")} == {alpha}
    weights = {value.numpy().tobytes() for key, value in tensors.items() if not key.endswith(".alpha")}
    assert weights == {value.numpy().tobytes() for value in load_file(path).values()}


@pytest.mark.parametrize("name", NOT_DORA)
def test_alpha_over_rank_times_up_and_down_is_the_addition_that_was_trained(sd, tmp_path, name) -> None:
    """The reference multiplies what the adapter's own layers hold, in float64."""
    adapter = trained(sd, name)
    tensors = exported(adapter.save(tmp_path, CARD), tmp_path / "exported.safetensors")
    keyed = adapter.keyed()
    for (part, module), kohya in kohya_names(adapter.placements).items():
        down, up = (tensors[f"{kohya}.lora_{way}.weight"].double().flatten(1) for way in ("down", "up"))
        a, b = (keyed[part, module, f"lora_{side}.weight"].detach().double().flatten(1) for side in "AB")
        scale = adapter.placements[part].scale(module)
        wanted = scale * b @ a
        assert (
            tensors[f"{kohya}.alpha"].item() / len(down) * up @ down - wanted
        ).abs().max() < 1e-6 * wanted.abs().max()


def test_an_sd_files_text_encoder_has_the_prefix_that_both_programs_read(sd, tmp_path) -> None:
    keys = exported(trained(sd, "text").save(tmp_path, CARD), tmp_path / "exported.safetensors")
    text = {key.partition(".")[0] for key in keys if not key.startswith("lora_unet_")}
    assert text == {
        f"lora_te_text_model_encoder_layers_{layer}_self_attn_{end}"
        for layer in range(2)
        for end in ("q_proj", "k_proj", "v_proj", "out_proj")
    }


def test_an_sdxl_files_text_encoders_are_numbered(sdxl, tmp_path) -> None:
    keys = exported(trained(sdxl, "text").save(tmp_path, CARD), tmp_path / "exported.safetensors")
    text = {key.partition("_self_attn")[0] for key in keys if not key.startswith("lora_unet_")}
    # the last layer of the first encoder is never read
    assert text == {f"lora_te{n}_text_model_encoder_layers_{layer}" for n, layer in ((1, 0), (2, 0), (2, 1))}


def test_the_file_says_where_the_adapter_comes_from(sd, tmp_path) -> None:
    path = trained(sd, "plain").save(tmp_path, CARD)
    exported(path, tmp_path / "exported.safetensors")
    with safe_open(tmp_path / "exported.safetensors", framework="pt") as opened:
        assert opened.metadata()["evenhand.base_fingerprint"] == sd.fingerprint
    assert kohya_bytes(path) == kohya_bytes(path.parent)


@pytest.mark.parametrize("name", ["dora", "text_dora"])
def test_a_dora_is_refused_with_the_reason(sd, tmp_path, name) -> None:
    path = trained(sd, name).save(tmp_path, CARD)
    with pytest.raises(
        ValueError, match="is a DoRA, which has no layout that all programs read alike: ComfyUI divides"
    ):
        kohya_bytes(path)


def test_an_adapter_whose_alpha_is_not_known_is_not_exported(sd, tmp_path) -> None:
    path = trained(sd, "plain").save(tmp_path, CARD)
    save_file(load_file(path), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="its alpha is not known"):
        kohya_bytes(tmp_path / "bare.safetensors")


def wanted_unet_names(name: str, targets: str) -> Iterator[str]:
    """From the block lists of the published ``unet/config.json``."""
    config = CONFIGS[name]
    depths = config.get("transformer_layers_per_block", [1] * len(config["block_out_channels"]))
    levels = len(config["block_out_channels"])
    for level in range(levels):
        for block, count, depth, kind in (
            ("down", 2, depths[level], config["down_block_types"][level]),
            ("up", 3, depths[::-1][level], config["up_block_types"][level]),
        ):
            for index in range(count):
                place = f"lora_unet_{block}_blocks_{level}"
                if "CrossAttn" in kind:
                    yield from attention_names(f"{place}_attentions_{index}", depth, targets)
                if targets == "all":
                    yield from resnet_names(f"{place}_resnets_{index}")
    yield from attention_names("lora_unet_mid_block_attentions_0", depths[-1], targets)


def attention_names(place: str, depth: int, targets: str) -> Iterator[str]:
    for layer in range(depth):
        for end in ATTENTION + (FEEDFORWARD if targets != "attention" else []):
            yield f"{place}_transformer_blocks_{layer}_{end}"
    if targets == "all":
        yield from (f"{place}_proj_{way}" for way in ("in", "out"))


def resnet_names(place: str) -> Iterator[str]:
    yield from (f"{place}_{end}" for end in ("conv1", "conv2", "time_emb_proj"))


@pytest.mark.parametrize("targets", ["attention", "attention_feedforward", "all"])
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_names_on_the_published_architectures_are_those_of_their_block_lists(name: str, targets: str) -> None:
    base: Any = Shell(unet_of(name, "meta"))
    placements = placements_of(base, LoraSettings(rank=4, alpha=4.0, targets=targets))  # type: ignore[arg-type]
    names = set(kohya_names(placements).values())
    wanted = set(wanted_unet_names(name, targets))
    if targets == "all":
        rest = names - wanted
        mid = {f"lora_unet_mid_block_resnets_{i}_{end}" for i in (0, 1) for end in ("conv1", "conv2", "time_emb_proj")}
        assert {each for each in rest if "mid_block" in each} == mid
        assert {each.rpartition("_")[2] for each in rest - mid} == {"shortcut", "conv"}  # and resizers
        names -= rest
    assert names == wanted
    assert len(names) == {("sd15", "attention"): 128, ("sdxl", "attention"): 560}.get((name, targets), len(names))


def test_the_stock_pipeline_reads_it_on_sdxl_by_its_block_names(sdxl, tiny_sdxl_folder, tmp_path) -> None:
    """SDXL's loader renames files of another block layout; ours must pass it unchanged."""
    path = trained(sdxl, "text_feedforward_patterns").save(tmp_path / "adapter", CARD)
    exported(path, tmp_path / "exported.safetensors")
    ours, theirs = (DiffusionPipeline.from_pretrained(tiny_sdxl_folder) for _ in range(2))
    ours.load_lora_weights(path.parent)
    theirs.load_lora_weights(tmp_path, weight_name="exported.safetensors")
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for (name, one), (other_name, other) in zip(
            getattr(ours, part).named_modules(), getattr(theirs, part).named_modules(), strict=True
        ):
            assert name == other_name
            if hasattr(one, "scaling"):
                (ours_name,), (theirs_name,) = one.scaling, other.scaling
                (a, b), (c, d) = (
                    (layer.lora_A[key].weight.flatten(1), layer.lora_B[key].weight.flatten(1))
                    for layer, key in ((one, ours_name), (other, theirs_name))
                )
                torch.testing.assert_close(one.scaling[ours_name] * b @ a, other.scaling[theirs_name] * d @ c)
