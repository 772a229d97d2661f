"""Few-step sampling against diffusers' own scheduler, its gradients against finite differences and sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from evenhand.methods.unrolled import DdimStep, ddim_steps, pulls, sample_latents
from tests.tiny import LATENT_PX

CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse"]
STEPS = (
    DdimStep(timestep=999, keep=0.9, move=-0.1),
    DdimStep(timestep=500, keep=1.1, move=-0.4),
    DdimStep(timestep=200, keep=0.8, move=-0.2),
)


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(seed))


def nonlinear(theta: torch.Tensor):
    """A prediction in float64 that depends on its input, its timestep and one parameter."""
    return lambda latents, timesteps: torch.tanh(theta * latents) + theta**2 * timesteps.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("family", ["sd", "sd_epsilon"])
@pytest.mark.parametrize("num_steps", [1, 4])  # others the stock scheduler rounds in two ways
def test_latents_are_those_of_the_stock_scheduler(request, family, num_steps) -> None:
    base = request.getfixturevalue(family)
    text = base.encode_text(CAPTIONS)
    scheduler = DDIMScheduler.from_config(base.pipeline.scheduler.config)
    scheduler.set_timesteps(num_steps)
    wanted = noise()
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            wanted = scheduler.step(base.denoise(wanted, timestep.repeat(2), text), timestep, wanted).prev_sample
        found = sample_latents(
            lambda latents, timesteps: base.denoise(latents, timesteps, text),
            noise(),
            ddim_steps(base, num_steps),
            gradient_steps=0,
            gradient="adjusted",
        )
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gradient", ["adjusted", "exact"])
@pytest.mark.parametrize("gradient_steps", [1, 2, 3])
def test_the_gradient_asked_for_changes_no_latent(gradient, gradient_steps) -> None:
    start = noise().double()
    predict = nonlinear(torch.tensor(0.7, dtype=torch.float64, requires_grad=True))
    plain = sample_latents(predict, start, STEPS, gradient_steps=0, gradient=gradient)
    assert not plain.requires_grad
    found = sample_latents(predict, start, STEPS, gradient_steps=gradient_steps, gradient=gradient)
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), plain, rtol=0, atol=1e-12)


def test_the_exact_gradient_is_that_of_finite_differences() -> None:
    start = noise().double()

    def end(value: float) -> float:
        theta = torch.tensor(value, dtype=torch.float64)
        return sample_latents(nonlinear(theta), start, STEPS, gradient_steps=0, gradient="exact").sum().item()

    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    sample_latents(nonlinear(theta), start, STEPS, gradient_steps=3, gradient="exact").sum().backward()
    step = 1e-6
    assert theta.grad.item() == pytest.approx((end(0.7 + step) - end(0.7 - step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("gradient_steps", [1, 2, 3])
def test_the_adjusted_gradient_is_an_even_sum_over_steps_with_their_inputs_held(gradient_steps) -> None:
    """By hand: minus the geometric mean of |A_i| times the sum of d prediction_i / d theta at the inputs met."""
    start = noise().double()
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    sample_latents(nonlinear(theta), start, STEPS, gradient_steps=gradient_steps, gradient="adjusted").sum().backward()
    by_hand, latents = [], start
    for step in STEPS:
        value, shift = torch.tanh(0.7 * latents), 0.7**2 * step.timestep / 1000
        by_hand.append(((1 - value**2) * latents + 2 * 0.7 * step.timestep / 1000).sum().item())
        latents = step.keep * latents + step.move * (value + shift)
    sizes = [0.1 * 1.1 * 0.8, 0.4 * 0.8, 0.2][-gradient_steps:]
    weight = math.prod(sizes) ** (1 / gradient_steps)
    assert theta.grad.item() == pytest.approx(-weight * sum(by_hand[-gradient_steps:]), rel=1e-9)


def test_pulls_say_how_far_a_step_moves_the_end_when_inputs_are_held(sd) -> None:
    """Each step's prediction is made larger by one in turn; no prediction depends on its input here."""
    steps = ddim_steps(sd, 5)
    start = noise().double()

    def end(moved: int) -> torch.Tensor:
        numbers = {step.timestep: float(index == moved) for index, step in enumerate(steps)}
        return sample_latents(
            lambda latents, timesteps: torch.full_like(latents, numbers[int(timesteps[0])]),
            start,
            steps,
            gradient_steps=0,
            gradient="exact",
        )

    plain = end(-1)
    for index, pull in enumerate(pulls(steps)):
        assert (end(index) - plain).mean().item() == pytest.approx(pull, rel=1e-9)
        assert pull < 0


def test_only_the_last_steps_keep_a_graph() -> None:
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    graphs = []

    def watched(latents, timesteps):
        prediction = nonlinear(theta)(latents, timesteps)
        graphs.append(prediction.requires_grad)
        return prediction

    sample_latents(watched, noise().double(), STEPS, gradient_steps=2, gradient="exact")
    assert graphs == [False, True, True]


def test_numbers_of_steps_that_the_schedule_lacks_are_refused(sd) -> None:
    for number in (0, 501):
        with pytest.raises(ValueError, match=rf"1 to 500 steps, got {number}"):
            ddim_steps(sd, number)
    assert len({step.timestep for step in ddim_steps(sd, 500)}) == 500
