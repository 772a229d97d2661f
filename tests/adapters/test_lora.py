from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenhand.adapters.card import AdapterCard
from evenhand.adapters.file import WEIGHTS_NAME, safetensors_bytes
from evenhand.adapters.lora import attach, detach, load, scaled
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.bases.unet import PRESETS
from tests.tiny import LATENT_PX, alike, load_sd, randomize, sampling

CAPTION = "a portrait of a mechanic"
CARD = AdapterCard(
    name="even-handed mechanics",
    base="tiny",
    base_model="somewhere/tiny",
    base_license="openrail++",
    method="curated",
    steps=3,
    seed=5,
    concepts=("mechanic", "nurse"),
    prompts=("a portrait of a mechanic", "a nurse at work"),
    data_sha256="d" * 64,
    config_sha256="c" * 64,
    training_readers=("reader",),
    version="0.1.0",
)
STOCK = """
import json, sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

model, adapter, out = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)

def image():
    return pipeline("a portrait of a mechanic", num_inference_steps=2, guidance_scale=3.0, height=64, width=64,
                    generator=torch.Generator().manual_seed(3), output_type="np").images[0]

base = image()
pipeline.load_lora_weights(adapter)
adapted = image()
file = load_file(adapter + "/pytorch_lora_weights.safetensors")
loaded = get_peft_model_state_dict(pipeline.unet, adapter_name="default_0")
loaded = {"unet." + key: value for key, value in loaded.items()}
pipeline.set_adapters("default_0", 0.0)
off = image()
np.savez(out, base=base, adapted=adapted, off=off)
print(json.dumps({
    "missing": sorted(set(file) - set(loaded)),
    "unexpected": sorted(set(loaded) - set(file)),
    "different": [key for key in file if not torch.equal(file[key], loaded[key])],
    "evenhand": sorted(name for name in sys.modules if name.startswith("evenhand.")),
}))
"""


def settings(targets: str = "attention", *, rank: int = 4, alpha: float = 8.0) -> LoraSettings:
    return LoraSettings(rank=rank, alpha=alpha, targets=targets)


def prediction(base) -> torch.Tensor:
    noisy = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return base.denoise(noisy, torch.tensor([10, 900]), base.encode_text([CAPTION, ""]))


def trained(base, targets: str = "attention"):
    adapter = attach(base, settings(targets), seed=0)
    randomize(adapter)
    return adapter


@pytest.mark.parametrize("targets", sorted(PRESETS))
def test_a_fresh_adapter_changes_no_bit_and_one_with_weights_does(sd, targets) -> None:
    before = prediction(sd)
    adapter = attach(sd, settings(targets), seed=0)
    assert torch.equal(prediction(sd), before)
    randomize(adapter)
    assert not torch.allclose(prediction(sd), before)


def test_the_addition_is_alpha_over_rank_times_b_a(sd) -> None:
    name = sd.lora_targets("attention")[0]
    layer_input = torch.randn((3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = sd.unet.get_submodule(name)(layer_input)
        adapter = trained(sd)
        after = sd.unet.get_submodule(name)(layer_input)
    down, up = adapter.parameters[f"{name}.lora_A.default.weight"], adapter.parameters[f"{name}.lora_B.default.weight"]
    wanted = before.numpy() + 8.0 / 4 * layer_input.numpy() @ down.detach().numpy().T @ up.detach().numpy().T
    np.testing.assert_allclose(after.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_an_adapter_starts_from_its_seed_and_leaves_the_global_random_state_alone(tiny_folder) -> None:
    state = torch.get_rng_state()
    first, again, other = (attach(load_sd(tiny_folder), settings(), seed=seed).tensors() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if ".lora_A." in name)
    assert all(first[name].count_nonzero() == 0 for name in first if ".lora_B." in name)


def test_only_the_adapter_is_trainable_and_it_is_float32_on_a_bfloat16_base(sd) -> None:
    sd.unet.to(torch.bfloat16)
    adapter = attach(sd, settings(), seed=0)
    trainable = {name for name, parameter in sd.unet.named_parameters() if parameter.requires_grad}
    assert trainable == set(adapter.parameters)
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    assert sd.unet.conv_in.weight.dtype == torch.bfloat16


def test_a_second_adapter_is_refused(sd) -> None:
    attach(sd, settings(), seed=0)
    with pytest.raises(ValueError, match="attached to this base already"):
        attach(sd, settings(), seed=0)


@pytest.mark.parametrize("field", [{"rank": 0}, {"alpha": 0.0}])
def test_settings_that_make_no_sense_are_refused_with_their_value(field) -> None:
    with pytest.raises(ValueError, match=r"got 0"):
        LoraSettings(**{"rank": 4, "alpha": 8.0, "targets": "attention", **field})


def test_an_unknown_preset_is_refused_with_the_choices(sd) -> None:
    with pytest.raises(
        ValueError, match="unknown LoRA targets 'atention'; choose one of cross_attention_kv, attention"
    ):
        attach(sd, settings("atention"), seed=0)


def test_without_the_adapter_predictions_are_the_bases_bit_for_bit_and_come_back_afterwards(sd) -> None:
    before = prediction(sd)
    trained(sd)
    adapted = prediction(sd)
    with sd.without_adapter():
        assert torch.equal(prediction(sd), before)
    assert torch.equal(prediction(sd), adapted)
    assert not torch.equal(adapted, before)


def test_switching_the_adapter_off_keeps_its_gradients_on(sd) -> None:
    adapter = trained(sd)
    with sd.without_adapter():
        assert all(parameter.requires_grad for parameter in adapter.parameters.values())


def test_scale_zero_gives_the_bases_image_bit_for_bit_and_half_a_scale_gives_neither(sd) -> None:
    def image() -> bytes:
        return sd.generate([CAPTION], [3], sampling())[0].image.tobytes()

    before = image()
    trained(sd)
    adapted = image()
    with scaled(sd, 0.0):
        assert image() == before
    with scaled(sd, 0.5):
        assert image() not in (before, adapted)
    assert image() == adapted


def test_taking_the_adapter_off_leaves_the_base_as_it_was(sd) -> None:
    before, names = prediction(sd), list(sd.unet.state_dict())
    trained(sd)
    assert weights_fingerprint(sd.unet) == sd.fingerprint
    detach(sd)
    assert list(sd.unet.state_dict()) == names
    assert weights_fingerprint(sd.unet) == sd.fingerprint
    assert torch.equal(prediction(sd), before)


def test_taking_off_what_is_not_there_does_nothing(sd) -> None:
    before = prediction(sd)
    detach(sd)
    assert torch.equal(prediction(sd), before)


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_a_saved_adapter_loads_with_the_same_predictions(sd, tiny_folder, tmp_path, targets) -> None:
    adapter = trained(sd, targets)
    path = adapter.save(tmp_path / "adapter", CARD)
    for place in (path.parent, path):
        base = load_sd(tiny_folder)
        loaded = load(base, place)
        assert torch.equal(prediction(base), prediction(sd))
        assert not any(parameter.requires_grad for parameter in loaded.parameters.values())
        assert (loaded.settings.rank, loaded.settings.alpha) == (4, 8.0)


def test_sdxl_adapters_save_and_load_too(sdxl, tmp_path) -> None:
    before = prediction(sdxl)
    adapter = trained(sdxl, "all")
    adapted = prediction(sdxl)
    path = adapter.save(tmp_path, CARD)
    detach(sdxl)
    assert torch.equal(prediction(sdxl), before)
    load(sdxl, path)
    assert alike(prediction(sdxl), adapted)


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_stock_diffusers_loads_the_file_alone_and_makes_the_same_images(sd, tiny_folder, tmp_path, targets) -> None:
    ours = {"base": sd.generate([CAPTION], [3], sampling())[0].image}
    trained(sd, targets).save(tmp_path / "adapter", CARD)
    ours["adapted"] = sd.generate([CAPTION], [3], sampling())[0].image
    arguments = [str(tiny_folder), str(tmp_path / "adapter"), str(tmp_path / "images.npz")]
    done = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts == {"missing": [], "unexpected": [], "different": [], "evenhand": []}
    theirs = np.load(tmp_path / "images.npz")
    rounding = 0.5 / 255  # ours are images of 8 bits
    for arm, image in ours.items():
        assert np.abs(np.asarray(image, dtype=np.float64) / 255 - theirs[arm]).max() <= 1e-3 + rounding
    assert np.array_equal(theirs["off"], theirs["base"])
    assert np.abs(theirs["adapted"] - theirs["base"]).max() > 0.05


def test_the_header_holds_the_three_settings_that_loaders_need_and_where_the_adapter_comes_from(sd, tmp_path) -> None:
    path = trained(sd).save(tmp_path, CARD)
    with safe_open(path, framework="pt") as opened:
        header = opened.metadata()
    lora = json.loads(header["lora_adapter_metadata"])
    assert set(lora) == {"unet.r", "unet.lora_alpha", "unet.target_modules"}
    assert (lora["unet.r"], lora["unet.lora_alpha"]) == (4, 8.0)
    assert lora["unet.target_modules"] == sorted(sd.lora_targets("attention"))
    assert header["evenhand.base_fingerprint"] == sd.fingerprint
    assert header["evenhand.config_sha256"] == CARD.config_sha256


def test_every_key_is_of_one_style_as_loaders_look_at_the_first_only(sd, tmp_path) -> None:
    keys = list(load_file(trained(sd, "all").save(tmp_path, CARD)))
    assert all(key.startswith("unet.") and key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)
    assert len(keys) == 2 * len(sd.lora_targets("all"))


def test_equal_adapters_are_equal_byte_for_byte(sd, tmp_path) -> None:
    adapter = trained(sd)
    files = [adapter.save(tmp_path / str(number), CARD) for number in range(4)]
    assert len({file.read_bytes() for file in files}) == 1
    for name in ("card.json", "README.md"):
        assert len({(file.parent / name).read_bytes() for file in files}) == 1


def test_safetensors_bytes_hold_what_the_library_reads_back(tmp_path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, 2], dtype=torch.int64)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(tensors, {"z": "1", "y": "ü"}))
    back = load_file(path)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"z": "1", "y": "ü"}


def test_the_cards_say_what_the_adapter_is(sd, tmp_path) -> None:
    path = trained(sd).save(tmp_path, CARD)
    facts = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert facts["base_fingerprint"] == sd.fingerprint
    assert facts["num_modules"] == len(sd.lora_targets("attention"))
    assert facts["num_parameters"] == sum(value.numel() for value in load_file(path).values())
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "load_lora_weights" in text
    assert facts["weights_sha256"] in text


def test_the_wrong_base_is_refused_by_both_names(sd, tiny_epsilon_folder, tmp_path) -> None:
    path = trained(sd).save(tmp_path, CARD)
    other = load_sd(tiny_epsilon_folder, name="other")
    before = prediction(other)
    with pytest.raises(ValueError, match="was trained on base tiny .* but the base here is other") as caught:
        load(other, path)
    assert sd.fingerprint[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)
    assert torch.equal(prediction(other), before)


def test_an_adapter_of_another_tool_needs_a_word_to_be_loaded(sd, tiny_folder, tmp_path) -> None:
    path = trained(sd).save(tmp_path, CARD)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(path), foreign)
    base = load_sd(tiny_folder)
    with pytest.raises(ValueError, match="does not say which base"):
        load(base, foreign)
    load(base, foreign, check_base=False)
    assert base.unet.peft_config["default"].lora_alpha == 4  # without a header alpha is taken to be the rank


def test_a_file_that_is_not_there_is_refused_with_its_path(sd, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"adapter not found: .*{WEIGHTS_NAME}"):
        load(sd, tmp_path)


def test_weights_of_another_adapter_are_refused(sd, tmp_path: Path) -> None:
    adapter = trained(sd)
    tensors = adapter.tensors()
    tensors.pop(next(iter(tensors)))
    with pytest.raises(ValueError, match="1 names differ"):
        adapter.set_tensors(tensors)
