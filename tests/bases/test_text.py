"""Text encoders: which modules a preset names, gradients through them, recomputation, and leaving memory."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from typing import Any

import pytest
import torch

from evenhand.adapters.lora import attach, detach, load
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import StableDiffusion
from evenhand.bases.text import text_lora_targets
from tests.adapters.test_lora import CARD
from tests.tiny import IMAGE_PX, LATENT_PX, PLAIN, alike, randomize, sampling

CAPTIONS = ["a portrait of a mechanic", "a doctor with glasses"]
NUM_LAYERS = 2  # of the tiny encoders


@pytest.fixture(params=["sd", "sdxl"])
def base(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def text_settings(preset: str) -> LoraSettings:
    return LoraSettings(rank=2, alpha=2.0, targets="cross_attention_kv", text_encoder=preset)  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "per_layer"), [("attention", 4), ("attention_feedforward", 6)])
def test_a_preset_names_the_layers_of_every_text_encoder(base, preset, per_layer) -> None:
    found = base.text_lora_targets(preset)
    assert list(found) == list(base.text_encoders)
    for name, modules in found.items():
        known = dict(base.text_encoders[name].named_modules())
        # SDXL does not read the last layer of its first encoder
        num_layers = NUM_LAYERS - 1 if (len(found), name) == (2, "text_encoder") else NUM_LAYERS
        assert len(modules) == per_layer * num_layers
        assert all(isinstance(known[module], torch.nn.Linear) for module in modules)


def test_none_names_nothing_and_an_unknown_preset_is_refused_with_the_choices(base) -> None:
    assert base.text_lora_targets("none") == {}
    with pytest.raises(
        ValueError, match="unknown LoRA targets 'all' of the text encoder; choose one of none, attention"
    ):
        base.text_lora_targets("all")


def test_targets_are_the_same_with_an_adapter_attached(base) -> None:
    before = base.text_lora_targets("attention_feedforward")
    attach(base, text_settings("attention_feedforward"), seed=0)
    assert base.text_lora_targets("attention_feedforward") == before


def test_an_encoder_without_such_modules_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"'attention' match none of the modules of text_encoder \(Linear\)"):
        text_lora_targets({"text_encoder": torch.nn.Linear(2, 2)}, "attention")


def test_embedding_is_encoding_with_gradients_for_the_adapter(base) -> None:
    adapter = attach(base, text_settings("attention"), seed=0)
    randomize(adapter)
    text = base.embed_text(CAPTIONS)
    assert alike(base.encode_text(CAPTIONS).hidden_BLD, text.hidden_BLD.detach())
    assert not base.encode_text(CAPTIONS).hidden_BLD.requires_grad
    text.hidden_BLD.square().mean().backward()
    touched = [name for name, parameter in adapter.parameters.items() if parameter.grad is not None]
    assert {name.partition(".")[0] for name in touched} == set(base.text_encoders)


def test_without_the_adapter_text_is_embedded_as_by_the_base(base) -> None:
    before = base.encode_text(CAPTIONS)
    randomize(attach(base, text_settings("attention"), seed=0))
    adapted = base.encode_text(CAPTIONS)
    assert not torch.allclose(adapted.hidden_BLD, before.hidden_BLD)
    with base.without_adapter():
        inside = base.encode_text(CAPTIONS)
    assert torch.equal(inside.hidden_BLD, before.hidden_BLD)
    if before.pooled_BD is not None:
        assert torch.equal(inside.pooled_BD, before.pooled_BD)
    assert torch.equal(base.encode_text(CAPTIONS).hidden_BLD, adapted.hidden_BLD)


def test_recomputed_activations_give_the_same_gradients_and_layers_run_twice(base) -> None:
    adapter = attach(base, text_settings("attention_feedforward"), seed=0)
    randomize(adapter)
    calls = []
    layer = next(m for m in base.text_encoders["text_encoder"].modules() if type(m).__name__ == "CLIPMLP")
    layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> dict[str, torch.Tensor]:
        calls.clear()
        text = base.embed_text(CAPTIONS)
        noisy = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(0))
        base.denoise(noisy, torch.tensor([10, 900]), text).square().mean().backward()
        found = {name: parameter.grad.clone() for name, parameter in adapter.parameters.items()}
        for parameter in adapter.parameters.values():
            parameter.grad = None
        return found

    plain = gradients()
    assert len(calls) == 1
    base.checkpoint_gradients()
    recomputed = gradients()
    assert len(calls) == 2
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-5, atol=1e-8)
        assert value.abs().max() > 0, name


def test_released_encoders_leave_memory_and_say_so_when_they_are_needed(base) -> None:
    text = base.encode_text(CAPTIONS)
    parts = [weakref.ref(part) for part in (base.pipeline.vae, *base.text_encoders.values())]
    base.release_encoders()
    gc.collect()
    assert [part() for part in parts] == [None] * len(parts)
    assert base.pipeline.vae is None
    assert base.pipeline.text_encoder is None
    assert base.text_encoders == {}
    noisy = torch.zeros(2, 4, LATENT_PX, LATENT_PX)
    assert base.denoise(noisy, torch.tensor([10, 900]), text).shape == noisy.shape
    assert base.lora_targets("attention")
    with base.without_adapter():
        pass
    for needs_them in (
        lambda: base.encode_text(CAPTIONS),
        lambda: base.embed_text(CAPTIONS),
        lambda: base.encode_images(torch.zeros(1, 3, IMAGE_PX, IMAGE_PX)),
        lambda: base.generate(CAPTIONS[:1], [0], sampling()),
        lambda: base.text_lora_targets("attention"),
    ):
        with pytest.raises(ValueError, match="its VAE and text encoders were released from memory"):
            needs_them()


def test_encoders_that_an_adapter_sits_on_are_not_released(base) -> None:
    attach(base, text_settings("attention"), seed=0)
    with pytest.raises(ValueError, match="text_encoder has an adapter, so it cannot be released"):
        base.release_encoders()


def test_a_rescaled_base_samples_and_trains_on_a_schedule_that_ends_in_noise_alone(tiny_folder) -> None:
    plain, rescaled = (
        StableDiffusion(name="mine", model=str(tiny_folder), **{**PLAIN, "zero_terminal_snr": choice}).load(
            device=torch.device("cpu"), dtype=torch.float32
        )
        for choice in (False, True)
    )
    last = torch.tensor([plain.num_train_timesteps - 1])
    assert (plain.zero_terminal_snr, rescaled.zero_terminal_snr) == (False, True)
    assert plain.snr(last) > 0
    assert rescaled.snr(last) == 0
    assert rescaled.sampler()["scheduler"]["rescale_betas_zero_snr"]
    images = [each.generate(CAPTIONS[:1], [0], sampling())[0].image.tobytes() for each in (plain, rescaled)]
    assert images[0] != images[1]


def test_a_base_that_predicts_noise_is_not_rescaled(tiny_epsilon_folder) -> None:
    choice = StableDiffusion(name="mine", model=str(tiny_epsilon_folder), **{**PLAIN, "zero_terminal_snr": True})
    with pytest.raises(ValueError, match="base mine predicts epsilon"):
        choice.load(device=torch.device("cpu"), dtype=torch.float32)


def test_a_base_whose_own_schedule_ends_in_noise_alone_is_left_as_it_is(tiny_folder, tmp_path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rescale_betas_zero_snr": True}))
    for choice in (False, True):
        base = StableDiffusion(name="mine", model=str(folder), **{**PLAIN, "zero_terminal_snr": choice}).load(
            device=torch.device("cpu"), dtype=torch.float32
        )
        assert base.snr(torch.tensor([999])) == 0
        assert not base.zero_terminal_snr


def test_an_adapter_of_a_rescaled_base_is_refused_on_the_plain_one(tiny_folder, tmp_path) -> None:
    plain, rescaled = (
        StableDiffusion(name="mine", model=str(tiny_folder), **{**PLAIN, "zero_terminal_snr": choice}).load(
            device=torch.device("cpu"), dtype=torch.float32
        )
        for choice in (False, True)
    )
    path = attach(rescaled, text_settings("none"), seed=0).save(tmp_path, CARD)
    assert "rescale_betas_zero_snr=True" in (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"was trained with zero_terminal_snr=true, but the base here has false"):
        load(plain, path)
    detach(rescaled)
    load(rescaled, path)
