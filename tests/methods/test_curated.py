from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.interfaces import Batch
from evenhand.methods.curated import Curated
from tests.tiny import LATENT_PX, randomize

CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse", "a portrait of a doctor"]
KEPT = ["a portrait of a female mechanic", ""]
TIMESTEPS = [20, 400, 950]


def method(preserve_weight: float = 0.5, gamma: float | None = None, objective: str = "prediction") -> Curated:
    return Curated(
        preserve_weight=preserve_weight, preserve_objective=objective, min_snr_gamma=gamma, coupled_noise=False
    )


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


def snr_weights(prediction_type: str, gamma: float | None, timesteps: list[int]) -> np.ndarray:
    """Min-SNR weights in float64, by the paper's formulas."""
    if gamma is None:
        return np.ones(len(timesteps))
    signal_squared = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[timesteps]
    snr = signal_squared / (1 - signal_squared)
    return np.minimum(snr, gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


@pytest.mark.parametrize("family", ["sd", "sd_epsilon"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_equals_its_equation_written_out_in_numpy(request, family, gamma) -> None:
    base = request.getfixturevalue(family)
    adapted(base)
    batch = batch_for(base)
    weights = snr_weights(base.prediction_type, gamma, TIMESTEPS)
    total, denoise, preserve = by_hand(base, batch, 0.5, weights)
    terms = method(0.5, gamma).loss(base, batch)
    np.testing.assert_allclose(terms.total.item(), total, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["denoise"].item(), denoise, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["preserve"].item(), preserve, rtol=1e-4)


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_rows_with_weights_count_by_them_and_preserve_rows_all_alike(sd, gamma) -> None:
    adapted(sd)
    plain = batch_for(sd)
    weights = snr_weights(sd.prediction_type, gamma, TIMESTEPS) * np.array([0.25, 1.0, 1.75])
    total, denoise, preserve = by_hand(sd, plain, 0.5, weights)
    terms = method(0.5, gamma).loss(sd, dataclasses.replace(plain, weights_B=torch.tensor([0.25, 1.0, 1.75])))
    np.testing.assert_allclose(terms.total.item(), total, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["denoise"].item(), denoise, rtol=1e-4)
    np.testing.assert_allclose(terms.parts["preserve"].item(), preserve, rtol=1e-4)
    unweighted, ones = (
        method(0.5, gamma).loss(sd, dataclasses.replace(plain, weights_B=each)) for each in (None, torch.ones(3))
    )
    assert torch.equal(unweighted.total, ones.total)
    assert unweighted.total.item() != pytest.approx(total, rel=1e-3)


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
    with pytest.raises(ValueError, match=r"preserve_objective must be one of prediction, images, got 'pictures'"):
        method(objective="pictures")


@pytest.mark.parametrize("family", ["sd", "sd_epsilon"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_preserving_images_is_the_denoising_loss_on_the_preserve_rows(request, family, gamma, monkeypatch) -> None:
    base = request.getfixturevalue(family)
    adapted(base)
    batch = batch_for(base)
    kept = Batch(
        latents_BCHW=batch.preserve_latents_BCHW,
        noise_BCHW=batch.preserve_noise_BCHW,
        timesteps_B=batch.preserve_timesteps_B,
        text=batch.preserve_text,
    )
    wanted = method(0.0, gamma).loss(base, kept).total.item()  # whose equation is checked against NumPy above
    denoise = method(0.0, gamma).loss(base, batch_for(base, preserve=False)).total.item()
    monkeypatch.setattr(type(base), "without_adapter", None)  # it needs no pass of the base
    terms = method(0.5, gamma, "images").loss(base, batch)
    assert terms.parts["preserve"].item() == pytest.approx(wanted, rel=1e-4)
    assert terms.total.item() == pytest.approx(denoise + 0.5 * wanted, rel=1e-4)


def halved(batch: Batch) -> Batch:
    """The preserve rows cut to half their height, as another bucket would have them."""
    half = slice(0, LATENT_PX // 2)
    return dataclasses.replace(
        batch,
        preserve_latents_BCHW=batch.preserve_latents_BCHW[:, :, half],
        preserve_noise_BCHW=batch.preserve_noise_BCHW[:, :, half],
    )


@pytest.mark.parametrize("objective", ["prediction", "images"])
def test_rows_of_different_shapes_give_the_losses_of_their_own_passes(sd, objective) -> None:
    adapted(sd)
    batch = halved(batch_for(sd))
    terms = method(0.5, None, objective).loss(sd, batch)
    denoise = method(0.0).loss(sd, batch_for(sd, preserve=False)).total.item()
    assert terms.parts["denoise"].item() == pytest.approx(denoise, rel=1e-5)
    if objective == "prediction":
        noisy = sd.add_noise(batch.preserve_latents_BCHW, batch.preserve_noise_BCHW, batch.preserve_timesteps_B)
        with torch.no_grad():
            student = sd.denoise(noisy, batch.preserve_timesteps_B, batch.preserve_text)
            with sd.without_adapter():
                teacher = sd.denoise(noisy, batch.preserve_timesteps_B, batch.preserve_text)
        assert terms.parts["preserve"].item() == pytest.approx((student - teacher).square().mean().item(), rel=1e-4)


def test_shapes_that_are_the_same_take_one_pass_with_the_adapter(sd, monkeypatch) -> None:
    adapted(sd)
    calls: list[int] = []
    real = type(sd).denoise

    def counted(self, noisy_BCHW, *arguments, **more):
        calls.append(len(noisy_BCHW))
        return real(self, noisy_BCHW, *arguments, **more)

    monkeypatch.setattr(type(sd), "denoise", counted)
    method().loss(sd, batch_for(sd))
    assert calls == [2, 5]
    calls.clear()
    method().loss(sd, halved(batch_for(sd)))
    assert calls == [2, 3, 2]


def test_sizes_reach_a_base_that_is_told_them(sdxl) -> None:
    adapted(sdxl)
    batch = batch_for(sdxl)
    sizes = torch.tensor([64.0, 64, 0, 0, 64, 64])
    told = dataclasses.replace(batch, size_B6=sizes.expand(3, 6), preserve_size_B6=sizes.expand(2, 6))
    cropped = dataclasses.replace(told, size_B6=torch.tensor([512.0, 300, 40, 9, 64, 64]).expand(3, 6))
    kept_cropped = dataclasses.replace(told, preserve_size_B6=cropped.size_B6[:2])
    losses = [method().loss(sdxl, each) for each in (batch, told, cropped, kept_cropped)]
    whole, same, other, kept = ({name: part.item() for name, part in each.parts.items()} for each in losses)
    assert same == pytest.approx(whole)  # whole images of the latents' own size is what None stands for
    assert other["denoise"] != pytest.approx(whole["denoise"], rel=1e-6)
    assert other["preserve"] == pytest.approx(whole["preserve"], rel=1e-4)
    assert kept["preserve"] != pytest.approx(whole["preserve"], rel=1e-6)


def test_the_teacher_reads_the_bases_own_embedding_where_there_is_one(sd) -> None:
    adapter = attach(sd, LoraSettings(rank=4, alpha=4.0, targets="attention"), seed=0)
    assert adapter.parameters
    batch = batch_for(sd)
    trained = dataclasses.replace(batch, preserve_text=sd.encode_text(["a doctor", "a nurse"]))
    with_teacher = dataclasses.replace(trained, preserve_teacher_text=batch.preserve_text)
    # a fresh adapter changes nothing, so all that the second term can see is the difference of the embeddings
    assert method().loss(sd, trained).parts["preserve"].item() < 1e-10
    assert method().loss(sd, with_teacher).parts["preserve"].item() > 1e-6


def test_training_at_zero_terminal_snr_has_finite_gradients_at_every_timestep(sd) -> None:
    adapted(sd)
    object.__setattr__(sd.schedule, "signal_T", sd.schedule.signal_T.clone())
    object.__setattr__(sd.schedule, "sigma_T", sd.schedule.sigma_T.clone())
    sd.schedule.signal_T[999], sd.schedule.sigma_T[999] = 0.0, 1.0
    batch = dataclasses.replace(batch_for(sd), timesteps_B=torch.tensor([0, 998, 999]))
    for gamma in (None, 5.0):
        method(0.5, gamma, "images").loss(sd, batch).total.backward()
        assert all(p.grad.isfinite().all() for name, p in sd.unet.named_parameters() if ".lora_" in name)
