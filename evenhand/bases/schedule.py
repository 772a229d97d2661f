"""The forward process of a Stable Diffusion base and what its UNet predicts.

``x_t = signal_t x_0 + sigma_t noise``. Letters: B batch, C channels, H height, W width, T timesteps of the schedule.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """``signal_T`` and ``sigma_T`` of a trained schedule in float32, and the kind of prediction that goes with it."""

    prediction_type: str
    signal_T: torch.Tensor
    sigma_T: torch.Tensor

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the base was trained on."""
        return len(self.signal_T)

    def add_noise(
        self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """``signal_t x_0 + sigma_t noise``."""
        return self._at(self.signal_T, timesteps_B) * latents_BCHW + self._at(self.sigma_T, timesteps_B) * noise_BCHW

    def target(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """The noise, or ``v = signal_t noise - sigma_t x_0`` (Salimans and Ho 2022, appendix D)."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        return self._at(self.signal_T, timesteps_B) * noise_BCHW - self._at(self.sigma_T, timesteps_B) * latents_BCHW

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """``(signal_t / sigma_t)^2``; 0 at the end of a zero-terminal-SNR schedule."""
        return (self.signal_T[timesteps_B] / self.sigma_T[timesteps_B]) ** 2

    def _at(self, values_T: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        return values_T[timesteps_B].view(-1, 1, 1, 1)


def with_zero_terminal_snr(scheduler: Any, *, name: str) -> Any:  # Any: diffusers has no types
    """A scheduler like this one, but with the last timestep at an SNR of 0 and the first sampled timestep there.

    Lin et al. 2024 (arXiv 2305.08891), sections 3.1 and 3.3: the betas are rescaled, and sampling starts at the last
    timestep (``trailing``). Where the base's own kind of scheduler cannot, DDIM takes its place, as in that paper.
    ValueError for a base that predicts noise: at an SNR of 0 its target says nothing of the image (section 3.2).
    """
    from diffusers import DDIMScheduler

    if scheduler.config.prediction_type != "v_prediction":
        raise ValueError(
            f"base {name} predicts {scheduler.config.prediction_type}, with which the last timestep cannot be noise "
            "alone (base.zero_terminal_snr=false, or choose a base that predicts v)"
        )
    rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler_class: Any = type(scheduler)
    if "rescale_betas_zero_snr" not in inspect.signature(scheduler_class.__init__).parameters:
        scheduler_class = DDIMScheduler
        rescaled["clip_sample"] = False  # DDIM's default would cut latents off at 1
    return scheduler_class.from_config(scheduler.config, **rescaled)


def has_zero_terminal_snr(scheduler: Any) -> bool:  # Any: diffusers has no types
    """Whether the scheduler's last timestep is noise alone."""
    return bool(scheduler.config.get("rescale_betas_zero_snr", False))


def noise_schedule(scheduler_config: Any, *, device: torch.device) -> NoiseSchedule:  # Any: a diffusers FrozenDict
    """The schedule that a pipeline's scheduler config describes; ValueError for other kinds of prediction."""
    from diffusers import DDPMScheduler

    scheduler_class: Any = DDPMScheduler  # Any: diffusers has no types
    trained = scheduler_class.from_config(scheduler_config)
    if trained.config.prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {trained.config.prediction_type!r} "
            "(scheduler/scheduler_config.json of the base)"
        )
    signal_squared_T = trained.alphas_cumprod.double()
    return NoiseSchedule(
        prediction_type=trained.config.prediction_type,
        signal_T=signal_squared_T.sqrt().float().to(device),
        sigma_T=(1.0 - signal_squared_T).sqrt().float().to(device),
    )
