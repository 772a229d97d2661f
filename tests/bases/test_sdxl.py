from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from evenhand.bases.sdxl import StableDiffusionXL
from tests.tiny import IMAGE_PX, LATENT_PX, PLAIN, sampling

CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse", ""]


def test_an_image_equals_that_of_the_stock_pipeline_with_a_generator_of_the_same_seed(sdxl, tiny_sdxl_folder) -> None:
    made = sdxl.generate(CAPTIONS, [3, 4, 5], sampling(steps=3))
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    for caption, seed, ours in zip(CAPTIONS, [3, 4, 5], made, strict=True):
        generator = torch.Generator().manual_seed(seed)
        theirs = pipeline(
            caption, num_inference_steps=3, guidance_scale=3.0, height=IMAGE_PX, width=IMAGE_PX, generator=generator
        ).images[0]
        difference = np.asarray(ours.image, dtype=np.int16) - np.asarray(theirs, dtype=np.int16)
        assert np.abs(difference).max() <= 1


def test_denoising_says_that_the_image_is_whole_and_of_its_own_size(sdxl) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, timesteps = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=generator), torch.tensor([10, 900])
    text = sdxl.encode_text(CAPTIONS[:2])
    size = torch.tensor([[IMAGE_PX, IMAGE_PX, 0.0, 0.0, IMAGE_PX, IMAGE_PX]] * 2)
    with torch.no_grad():
        wanted = sdxl.unet(
            noisy, timesteps, text.hidden_BLD, added_cond_kwargs={"text_embeds": text.pooled_BD, "time_ids": size}
        ).sample
        assert torch.equal(sdxl.denoise(noisy, timesteps, text), wanted)


def test_the_empty_caption_is_embedded_as_guidance_embeds_it(sdxl) -> None:
    _, negative, _, negative_pooled = sdxl.pipeline.encode_prompt("a tree", do_classifier_free_guidance=True)
    text = sdxl.encode_text(["a tree", ""])
    assert torch.equal(text.hidden_BLD[1], negative[0])
    assert torch.equal(text.pooled_BD[1], negative_pooled[0])
    assert text.hidden_BLD[0].abs().sum() > 0
    assert text.pooled_BD[0].abs().sum() > 0


def test_text_without_its_pooled_embedding_is_refused(sdxl, sd) -> None:
    text = sd.encode_text(["a tree"])
    with pytest.raises(ValueError, match="pooled"):
        sdxl.denoise(torch.zeros(1, 4, LATENT_PX, LATENT_PX), torch.tensor([1]), text)


def test_a_vae_that_asks_for_it_stays_in_float32(sdxl) -> None:
    assert sdxl.pipeline.vae.config.force_upcast
    assert sdxl.pipeline.vae.dtype == torch.float32


def test_a_caption_that_would_be_cut_off_is_refused_with_its_token_count(sdxl) -> None:
    with pytest.raises(ValueError, match="caption has 78 tokens, but the text encoder reads 77"):
        sdxl.encode_text(["mechanic " * 76])


def test_a_folder_of_another_family_is_refused_by_name(tiny_folder) -> None:
    choice = StableDiffusionXL(name="mine", model=str(tiny_folder), **PLAIN)
    with pytest.raises(
        ValueError, match="is a StableDiffusionPipeline, but this base loads a StableDiffusionXLPipeline"
    ):
        choice.load(device=torch.device("cpu"), dtype=torch.float32)


def test_sizes_that_are_given_take_the_place_of_the_images_own(sdxl) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy, timesteps = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=generator), torch.tensor([10, 900])
    text = sdxl.encode_text(CAPTIONS[:2])
    size = torch.tensor([[300.0, 200.0, 0.0, 17.0, IMAGE_PX, IMAGE_PX], [90.0, 70.0, 3.0, 0.0, IMAGE_PX, IMAGE_PX]])
    whole = torch.tensor([[IMAGE_PX, IMAGE_PX, 0.0, 0.0, IMAGE_PX, IMAGE_PX]] * 2)
    with torch.no_grad():
        wanted = sdxl.unet(
            noisy, timesteps, text.hidden_BLD, added_cond_kwargs={"text_embeds": text.pooled_BD, "time_ids": size}
        ).sample
        assert torch.equal(sdxl.denoise(noisy, timesteps, text, size_B6=size), wanted)
        assert torch.equal(sdxl.denoise(noisy, timesteps, text, size_B6=whole), sdxl.denoise(noisy, timesteps, text))
        assert not torch.allclose(wanted, sdxl.denoise(noisy, timesteps, text))


def test_the_sizes_are_those_that_the_stock_pipeline_gives_for_the_same_image(sdxl) -> None:
    """``_get_add_time_ids`` of the pipeline is what sampling uses."""
    theirs = sdxl.pipeline._get_add_time_ids(
        (300, 200), (0, 17), (IMAGE_PX, IMAGE_PX), dtype=torch.float32, text_encoder_projection_dim=32
    )
    assert theirs.tolist() == [[300.0, 200.0, 0.0, 17.0, IMAGE_PX, IMAGE_PX]]


def test_sizes_of_another_number_of_images_are_refused(sdxl) -> None:
    noisy, text = torch.zeros(2, 4, LATENT_PX, LATENT_PX), sdxl.encode_text(CAPTIONS[:2])
    with pytest.raises(ValueError, match=r"six sizes for each of 2 images, got \(1, 6\)"):
        sdxl.denoise(noisy, torch.tensor([1, 2]), text, size_B6=torch.zeros(1, 6))
