from __future__ import annotations

import numpy as np
import pytest
import torch

from evenhand.adapters import LoraSettings, attach
from evenhand.interfaces import Batch
from evenhand.methods.curated import Curated
from tests.tiny import LATENT_PX, randomize

CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse", "a portrait of a doctor"]
KEPT = ["a portrait of a female mechanic", ""]
TIMESTEPS = [20, 400, 950]


def method(preserve_weight: float = 0.5, gamma: float | None = None) -> Curated:
    return Curated(preserve_weight=preserve_weight, min_snr_gamma=gamma)


def batch_for(base, *, preserve: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(3)

    def drawn(count: int) -> torch.Tensor:
        return torch.randn((count, 4, LATENT_PX, LATENT_PX), generator=generator)

    main = {"latents_BCHW": drawn(3), "noise_BCHW": drawn(3), "timesteps_B": torch.tensor(TIMESTEPS)}
    kept = {
        "preserve_latents_BCHW": drawn(2),
        "preserve_noise_BCHW": drawn(2),
        "preserve_timesteps_B": torch.tensor([100, 800]),
        "preserve_text": base.encode_text(KEPT),
    }
    return Batch(**main, text=base.encode_text(CAPTIONS), **(kept if preserve else {}))


def adapted(base) -> None:
    randomize(attach(base, LoraSettings(rank=4, alpha=4.0, targets="attention"), seed=0))


def by_hand(base, batch: Batch, preserve_weight: float, weights: np.ndarray) -> tuple[float, float, float]:
    """The equation of the file's head in float64 NumPy, from the UNet's predictions one row at a time."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal_squared = np.cumprod(1 - betas)

    def predict(latents, noise, timesteps, text, index):
        s = signal_squared[timesteps[index]]
        noisy = np.sqrt(s) * latents[index].double().numpy() + np.sqrt(1 - s) * noise[index].double().numpy()
        with torch.no_grad():
            out = base.unet(
                torch.from_numpy(noisy).float()[None], timesteps[index][None], text.hidden_BLD[index][None]
            ).sample
        return out[0].double().numpy()

    main, kept = [], []
    for index, timestep in enumerate(TIMESTEPS):
        s = signal_squared[timestep]
        latents, noise = batch.latents_BCHW[index].double().numpy(), batch.noise_BCHW[index].double().numpy()
        target = np.sqrt(s) * noise - np.sqrt(1 - s) * latents if base.prediction_type == "v_prediction" else noise
        error = predict(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B, batch.text, index) - target
        main.append(weights[index] * np.mean(error**2))
    for index in range(len(KEPT)):
        rows = (batch.preserve_latents_BCHW, batch.preserve_noise_BCHW, batch.preserve_timesteps_B, batch.preserve_text)
        student = predict(*rows, index)
        base.unet.disable_adapters()  # PEFT's own switch
        teacher = predict(*rows, index)
        base.unet.enable_adapters()
        kept.append(np.mean((student - teacher) ** 2))
    return np.mean(main) + preserve_weight * np.mean(kept), np.mean(main), np.mean(kept)


@pytest.mark.parametrize("family", ["sd", "sd_epsilon"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_equals_its_equation_written_out_in_numpy(request, family, gamma) -> None:
    base = request.getfixturevalue(family)
    adapted(base)
    batch = batch_for(base)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal_squared = np.cumprod(1 - betas)[TIMESTEPS]
    snr = signal_squared / (1 - signal_squared)
    weights = np.ones(3)
    if gamma is not None:
        weights = np.minimum(snr, gamma) / (snr + 1 if base.prediction_type == "v_prediction" else snr)
    total, denoise, preserve = by_hand(base, batch, 0.5, weights)
    terms = method(0.5, gamma).loss(base, batch)
    np.testing.assert_allclose(terms.total.item(), total, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["denoise"].item(), denoise, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["preserve"].item(), preserve, rtol=1e-4)


def test_sdxl_gives_a_loss_with_gradients_too(sdxl) -> None:
    adapted(sdxl)
    method().loss(sdxl, batch_for(sdxl)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sdxl.unet.parameters() if p.requires_grad)


def test_preserve_is_zero_for_a_fresh_adapter_and_positive_for_one_that_changes_things(sd) -> None:
    adapter = attach(sd, LoraSettings(rank=4, alpha=4.0, targets="attention"), seed=0)
    # the student's rows stand in a larger batch than the teacher's, so their last bits may differ
    assert method().loss(sd, batch_for(sd)).parts["preserve"].item() < 1e-10
    randomize(adapter)
    assert method().loss(sd, batch_for(sd)).parts["preserve"].item() > 1e-4


def test_gradients_reach_every_adapter_weight_and_nothing_else(sd) -> None:
    adapted(sd)
    method().loss(sd, batch_for(sd)).total.backward()
    with_gradient = {name for name, p in sd.unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {name for name, p in sd.unet.named_parameters() if ".lora_" in name}


def test_no_gradient_goes_through_the_teacher(sd) -> None:
    adapter = attach(sd, LoraSettings(rank=4, alpha=4.0, targets="attention"), seed=0)
    randomize(adapter)
    batch = batch_for(sd)
    method(1.0).loss(sd, batch).total.backward()
    both = {name: p.grad.clone() for name, p in adapter.parameters.items()}
    for p in adapter.parameters.values():
        p.grad = None
    noisy = sd.add_noise(batch.preserve_latents_BCHW, batch.preserve_noise_BCHW, batch.preserve_timesteps_B)
    with torch.no_grad(), sd.without_adapter():
        constant = sd.denoise(noisy, batch.preserve_timesteps_B, batch.preserve_text)
    kept = (sd.denoise(noisy, batch.preserve_timesteps_B, batch.preserve_text) - constant).square().mean()
    (method(0.0).loss(sd, batch_for(sd, preserve=False)).total + kept).backward()
    for name, p in adapter.parameters.items():
        torch.testing.assert_close(p.grad, both[name], rtol=1e-3, atol=1e-6)


def test_without_preserve_the_teacher_is_not_asked(sd, monkeypatch) -> None:
    adapted(sd)
    monkeypatch.setattr(type(sd), "without_adapter", None)
    terms = method(0.0).loss(sd, batch_for(sd, preserve=False))
    assert set(terms.parts) == {"denoise"}
    assert terms.total.item() == terms.parts["denoise"].item()
    assert not method(0.0).uses_preserve


def test_an_snr_of_zero_gives_finite_weights(sd_epsilon, sd) -> None:
    timesteps = torch.tensor([0, 999])
    for base, wanted in ((sd, 0.0), (sd_epsilon, 1.0)):
        object.__setattr__(base.schedule, "signal_T", base.schedule.signal_T.clone())
        base.schedule.signal_T[999] = 0.0
        weights = method(gamma=5.0)._weights(base, timesteps)
        assert weights.isfinite().all()
        assert weights[1].item() == wanted  # the limits of the two formulas as SNR goes to 0


def test_a_batch_without_preserve_rows_is_refused_with_the_cure(sd) -> None:
    adapted(sd)
    with pytest.raises(ValueError, match=r"train\.preserve_batch_size"):
        method().loss(sd, batch_for(sd, preserve=False))


def test_settings_that_make_no_sense_are_refused_with_their_value() -> None:
    with pytest.raises(ValueError, match=r"preserve_weight must be >= 0, got -1"):
        method(-1.0)
    with pytest.raises(ValueError, match=r"min_snr_gamma must be > 0 or null, got 0"):
        method(gamma=0.0)
