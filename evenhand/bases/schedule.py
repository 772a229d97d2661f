"""The forward process of a Stable Diffusion base and what its UNet predicts.

``x_t = signal_t x_0 + sigma_t noise``. Letters: B batch, C channels, H height, W width, T timesteps of the schedule.
"""

from __future__ import annotations

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
