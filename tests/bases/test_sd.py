from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.bases.sd import LoadedStableDiffusion, StableDiffusion
from tests.tiny import IMAGE_PX, LATENT_PX, PLAIN, load_sd, sampling, tiny_pipeline

CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse", ""]
CPU = torch.device("cpu")


def stock(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pixels(image: object) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def load(model: str, name: str = "mine") -> LoadedStableDiffusion:
    return StableDiffusion(name=name, model=model, **PLAIN).load(device=CPU, dtype=torch.float32)


def test_an_image_equals_that_of_the_stock_pipeline_with_a_generator_of_the_same_seed(sd, tiny_folder) -> None:
    made = sd.generate(CAPTIONS, [3, 4, 5], sampling(steps=3))
    pipeline = stock(tiny_folder)
    for caption, seed, ours in zip(CAPTIONS, [3, 4, 5], made, strict=True):
        generator = torch.Generator().manual_seed(seed)
        theirs = pipeline(
            caption, num_inference_steps=3, guidance_scale=3.0, height=IMAGE_PX, width=IMAGE_PX, generator=generator
        ).images[0]
        assert np.abs(pixels(ours.image) - pixels(theirs)).max() <= 1


def test_noise_depends_on_the_seed_alone_and_not_on_the_batch(sd) -> None:
    together = sd.generate(CAPTIONS, [3, 4, 5], sampling())
    alone = [sd.generate([caption], [seed], sampling())[0] for caption, seed in zip(CAPTIONS, [3, 4, 5], strict=True)]
    assert [image.noise_sha256 for image in together] == [image.noise_sha256 for image in alone]
    assert len({image.noise_sha256 for image in together}) == 3
    for first, second in zip(together, alone, strict=True):
        assert np.abs(pixels(first.image) - pixels(second.image)).max() <= 1


def test_another_seed_or_another_caption_gives_another_image(sd) -> None:
    first, second, third = sd.generate([CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]], [3, 4, 3], sampling())
    assert first.noise_sha256 == third.noise_sha256
    assert first.image.tobytes() not in (second.image.tobytes(), third.image.tobytes())


def test_generating_leaves_the_global_random_state_alone(sd) -> None:
    before = torch.get_rng_state()
    sd.generate(CAPTIONS, [1, 2, 3], sampling())
    assert torch.equal(before, torch.get_rng_state())


def test_captions_without_a_seed_each_are_refused(sd) -> None:
    with pytest.raises(ValueError, match="3 captions and 2 seeds"):
        sd.generate(CAPTIONS, [1, 2], sampling())


def test_text_embeddings_equal_those_of_the_text_encoder_called_by_hand(sd) -> None:
    tokenizer, encoder = sd.pipeline.tokenizer, sd.pipeline.text_encoder
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = encoder(ids).last_hidden_state
    text = sd.encode_text(CAPTIONS)
    torch.testing.assert_close(text.hidden_BLD, wanted)
    assert text.pooled_BD is None


def test_a_caption_that_would_be_cut_off_is_refused_with_its_token_count(sd) -> None:
    words = "mechanic " * 76  # one token each in the tiny vocabulary, so 78 with start and end
    with pytest.raises(ValueError, match="caption has 78 tokens, but the text encoder reads 77: 'mechanic"):
        sd.encode_text(["a portrait", words])
    with pytest.raises(ValueError, match="78 tokens"):
        sd.generate([words], [0], sampling())
    assert sd.encode_text(["mechanic " * 75]).hidden_BLD.shape == (1, 77, 32)


def test_the_posterior_is_the_vaes_in_the_scale_of_the_unet(sd) -> None:
    images = torch.rand((2, 3, IMAGE_PX, IMAGE_PX), generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = sd.encode_images(images)
    with torch.no_grad():
        moments = sd.pipeline.vae.quant_conv(sd.pipeline.vae.encoder(images))
    mean, log_variance = moments.chunk(2, dim=1)
    torch.testing.assert_close(posterior.mean_BCHW, mean * 0.18215)
    torch.testing.assert_close(posterior.std_BCHW, (log_variance / 2).exp() * 0.18215)
    assert posterior.mean_BCHW.shape == (2, 4, LATENT_PX, LATENT_PX)


def test_denoising_is_one_call_of_the_unet(sd) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, timesteps = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=generator), torch.tensor([10, 900])
    text = sd.encode_text(CAPTIONS[:2])
    with torch.no_grad():
        wanted = sd.unet(noisy, timesteps, encoder_hidden_states=text.hidden_BLD).sample
        assert torch.equal(sd.denoise(noisy, timesteps, text), wanted)


def test_resolution_and_prediction_come_from_the_folder(sd, sd_epsilon) -> None:
    assert (sd.resolution_px, sd.prediction_type, sd.num_train_timesteps) == (IMAGE_PX, "v_prediction", 1000)
    assert sd_epsilon.prediction_type == "epsilon"


def test_nothing_of_the_base_is_trainable(sd) -> None:
    modules = (sd.unet, sd.pipeline.vae, sd.pipeline.text_encoder)
    assert not [name for module in modules for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert not any(module.training for module in modules)


def test_the_fingerprint_is_the_same_for_fp16_and_fp32_files_and_another_for_other_weights(
    tiny_folder, tmp_path
) -> None:
    full = load_sd(tiny_folder)
    pipeline = stock(tiny_folder)
    pipeline.unet.half()
    pipeline.unet.save_pretrained(tmp_path / "half" / "unet")
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(tiny_folder / part, tmp_path / "half" / part)
    shutil.copy(tiny_folder / "model_index.json", tmp_path / "half")
    half = load_sd(tmp_path / "half")
    other = load_sd(tiny_pipeline(tmp_path / "other", seed=7))
    assert half.unet.dtype == torch.float32
    assert half.fingerprint == full.fingerprint
    assert other.fingerprint != full.fingerprint
    assert other.encoders_fingerprint != full.encoders_fingerprint == half.encoders_fingerprint


def test_one_changed_weight_changes_the_fingerprint(sd) -> None:
    before = weights_fingerprint(sd.unet)
    with torch.no_grad():
        sd.unet.conv_in.weight[0, 0, 0, 0] += 0.1
    assert weights_fingerprint(sd.unet) != before == sd.fingerprint


def test_a_missing_folder_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"base mine: model folder '.*nowhere' does not exist \(give a folder"):
        load(str(tmp_path / "nowhere"))


def test_a_folder_that_is_no_pipeline_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"holds no model_index\.json"):
        load(str(tmp_path))


def test_a_folder_without_its_weights_is_one_clear_line(tiny_folder, tmp_path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="base mine: cannot load") as caught:
        load(str(broken))
    assert "\n" not in str(caught.value)


def test_a_hub_id_that_cannot_be_had_offline_is_one_clear_line(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="base mine: cannot load 'nobody/nothing'") as caught:
        load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_family_is_refused_by_name(tiny_sdxl_folder) -> None:
    with pytest.raises(
        ValueError, match="is a StableDiffusionXLPipeline, but this base loads a StableDiffusionPipeline"
    ):
        load(str(tiny_sdxl_folder))


def test_loading_shows_no_progress_bars_and_puts_logging_back(tiny_folder, capfd) -> None:
    import diffusers.utils.logging as diffusers_logging

    before = (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled())
    load(str(tiny_folder))
    assert capfd.readouterr().err == ""
    assert (diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()) == before
