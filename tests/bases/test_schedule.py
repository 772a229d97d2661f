from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from evenhand.bases.schedule import (
    NoiseSchedule,
    has_zero_terminal_snr,
    noise_schedule,
    with_zero_terminal_snr,
)

CPU = torch.device("cpu")
COMMON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def schedule_of(scheduler: object) -> NoiseSchedule:
    return noise_schedule(scheduler.config, device=CPU)  # type: ignore[attr-defined]


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn((2, 5, 4, 8, 8), generator=generator)
    return latents, noise, torch.tensor([0, 1, 250, 700, 999])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_noise_and_target_equal_those_of_the_ddpm_scheduler_of_diffusers(scheduler_class, prediction_type) -> None:
    schedule = schedule_of(scheduler_class(**COMMON, prediction_type=prediction_type))
    reference = DDPMScheduler(**COMMON, prediction_type=prediction_type)
    latents, noise, timesteps = drawn()
    wanted = reference.get_velocity(latents, noise, timesteps) if prediction_type == "v_prediction" else noise
    torch.testing.assert_close(schedule.add_noise(latents, noise, timesteps), reference.add_noise(*drawn()))
    torch.testing.assert_close(schedule.target(latents, noise, timesteps), wanted)
    assert schedule.num_timesteps == 1000


def test_snr_equals_that_of_the_betas_multiplied_out() -> None:
    schedule = schedule_of(DDIMScheduler(**COMMON))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal_squared = torch.cumprod(1 - betas, dim=0)
    timesteps = torch.tensor([0, 500, 999])
    wanted = (signal_squared / (1 - signal_squared))[timesteps].float()
    torch.testing.assert_close(schedule.snr(timesteps), wanted, rtol=1e-4, atol=0)


def test_a_zero_terminal_snr_schedule_ends_in_pure_noise_with_an_snr_of_zero() -> None:
    schedule = schedule_of(DDIMScheduler(**COMMON, prediction_type="v_prediction", rescale_betas_zero_snr=True))
    last = torch.tensor([999])
    latents, noise, _ = drawn()
    assert schedule.snr(last).item() == 0.0
    torch.testing.assert_close(schedule.add_noise(latents[:1], noise[:1], last), noise[:1])


def test_a_base_that_predicts_the_image_itself_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="epsilon, v_prediction, got 'sample'"):
        schedule_of(DDIMScheduler(**COMMON, prediction_type="sample"))


def trained_with(scheduler_class: type) -> Any:
    """A scheduler of a base that predicts v, without clipping where it has such a thing."""
    more = {"clip_sample": False} if scheduler_class is DDIMScheduler else {}
    return scheduler_class(**COMMON, prediction_type="v_prediction", **more)


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_rescaling_follows_the_first_algorithm_of_the_paper(scheduler_class) -> None:
    """Lin et al. 2024, algorithm 1, in NumPy: shift the signal's root to 0 at the end, keep it at the beginning."""
    scheduler = with_zero_terminal_snr(trained_with(scheduler_class), name="mine")
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.sqrt(np.cumprod(1 - betas))
    wanted = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    schedule = schedule_of(scheduler)
    np.testing.assert_allclose(schedule.signal_T.numpy(), wanted, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(schedule.sigma_T.numpy(), np.sqrt(1 - wanted**2), rtol=1e-4)
    assert has_zero_terminal_snr(scheduler)
    assert not has_zero_terminal_snr(scheduler_class(**COMMON))


@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, PNDMScheduler])
def test_sampling_starts_at_the_timestep_that_is_noise_alone(scheduler_class) -> None:
    plain = trained_with(scheduler_class)
    scheduler = with_zero_terminal_snr(plain, name="mine")
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 999
    assert not scheduler.config.get("clip_sample", False)
    plain.set_timesteps(10)
    assert int(plain.timesteps[0]) < 999


def test_a_base_that_predicts_noise_cannot_end_in_noise_alone() -> None:
    with pytest.raises(ValueError, match=r"base mine predicts epsilon, .* \(base.zero_terminal_snr=false"):
        with_zero_terminal_snr(DDIMScheduler(**COMMON, prediction_type="epsilon"), name="mine")
