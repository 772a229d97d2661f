"""Few DDIM steps from noise to latents, with gradients through the last ones.

A deterministic step (Song et al., ICLR 2021, equation 12 with eta = 0) is linear in what it starts from and in what the
UNet predicts there: ``x' = keep x + move e(x)``. With signal s and sigma of a timestep, and s', sigma' of the next one,

    noise:  keep = s'/s,             move = sigma' - s' sigma / s
    v:      keep = s's + sigma'sigma, move = sigma's - s'sigma

Held apart from its own input, the prediction of step i therefore moves the end by ``A_i = move_i prod_{j>i} keep_j``.
Shen et al. (ICLR 2024) found that the exact gradient, through every later prediction's input, explodes, and that the
A_i weigh the steps very unevenly. Their *adjusted* gradient lets the predictions' inputs be constants and gives every
step the same weight; here that is the geometric mean of |A_i| over the steps that have gradients, as in their code, so
that the gradient's size is that of the steps. The latents themselves are the same either way.

Timesteps are spaced from the end of the schedule (``trailing``; Lin et al. 2024, arXiv 2305.08891, table 2), and the
last step goes to timestep 0. Letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

Predict = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]  # (latents_BCHW, timesteps_B) to a prediction
GRADIENTS = ("adjusted", "exact")


@dataclass(frozen=True, slots=True, kw_only=True)
class DdimStep:
    """From a timestep to the next one: ``keep x + move e(x)``."""

    timestep: int
    keep: float
    move: float


def ddim_steps(base: LoadedBase, num_steps: int) -> tuple[DdimStep, ...]:
    """The steps of a base's schedule from its noisiest timestep on; ValueError for more steps than it has."""
    import torch

    total = base.num_train_timesteps
    if not 1 <= num_steps <= total // 2:  # the last step must go somewhere: to timestep 0, from a later one
        raise ValueError(f"sampling takes 1 to {total // 2} steps, got {num_steps} (method.sampling_steps)")
    timesteps = [round(total - index * total / num_steps) - 1 for index in range(num_steps)]
    device = next(base.unet.parameters()).device
    snr = base.snr(torch.tensor([*timesteps, 0], device=device)).double().tolist()
    signals = [math.sqrt(ratio / (1 + ratio)) for ratio in snr]
    sigmas = [math.sqrt(1 / (1 + ratio)) for ratio in snr]
    steps = []
    for index, timestep in enumerate(timesteps):
        s, sigma, s_next, sigma_next = signals[index], sigmas[index], signals[index + 1], sigmas[index + 1]
        if base.prediction_type == "v_prediction":
            keep, move = s_next * s + sigma_next * sigma, sigma_next * s - s_next * sigma
        else:
            keep, move = s_next / s, sigma_next - s_next * sigma / s
        steps.append(DdimStep(timestep=timestep, keep=keep, move=move))
    return tuple(steps)


def pulls(steps: tuple[DdimStep, ...]) -> list[float]:
    """By how much each step's prediction moves the end, all inputs held: the A_i of the file's head."""
    return [step.move * math.prod(later.keep for later in steps[index + 1 :]) for index, step in enumerate(steps)]


def sample_latents(
    predict: Predict,
    noise_BCHW: torch.Tensor,
    steps: tuple[DdimStep, ...],
    *,
    gradient_steps: int,
    gradient: Literal["adjusted", "exact"],
) -> torch.Tensor:
    """The latents at the end of the steps, with the gradient of the last ``gradient_steps`` predictions (0: none)."""
    import torch

    latents_BCHW = noise_BCHW
    first = len(steps) - gradient_steps
    own = [abs(pull) for pull in pulls(steps)][first:]
    weight = math.exp(sum(map(math.log, own)) / len(own)) if own else 0.0
    adjusted = []
    for index, step in enumerate(steps):
        timesteps_B = torch.full((len(latents_BCHW),), step.timestep, device=latents_BCHW.device)
        with nullcontext() if index >= first else torch.no_grad():
            prediction_BCHW = predict(latents_BCHW, timesteps_B)
            if index >= first and gradient == "adjusted":
                # predictions move the end downwards: against their sign, whatever the size
                adjusted.append(-weight * prediction_BCHW)
                prediction_BCHW = prediction_BCHW.detach()
            latents_BCHW = step.keep * latents_BCHW + step.move * prediction_BCHW
    if not adjusted:
        return latents_BCHW
    gradient_BCHW = torch.stack(adjusted).sum(dim=0)
    return latents_BCHW.detach() + (gradient_BCHW - gradient_BCHW.detach())
