from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

from evenhand.data.timesteps import Beta, Uniform
from tests.data.synthetic import dealer, synthetic

EVEN = [0.0, 0.1, 0.5, 0.75, 0.999]


def test_uniform_leaves_shares_as_they_are_and_so_does_beta_one_one() -> None:
    assert [Uniform().share(even) for even in EVEN] == EVEN
    assert [Beta(alpha=1.0, beta=1.0).share(even) for even in EVEN] == pytest.approx(EVEN)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.0), (0.5, 3.0), (4.0, 2.0)])
def test_beta_gives_quantiles_of_the_distribution(alpha, beta) -> None:
    """Against the distribution function of scipy.stats, and by hand for alpha=2, beta=1, where it is x squared."""
    timesteps = Beta(alpha=alpha, beta=beta)
    shares = [timesteps.share(even) for even in EVEN]
    assert list(stats.beta.cdf(shares, alpha, beta)) == pytest.approx(EVEN, abs=1e-9)
    assert Beta(alpha=2.0, beta=1.0).share(0.25) == pytest.approx(0.5)


def test_no_share_reaches_the_end_of_the_schedule() -> None:
    assert Beta(alpha=50.0, beta=0.01).share(1 - 1e-16) < 1.0


NOISY = Beta(alpha=2.0, beta=1.0)


def test_a_loader_draws_by_them_and_changes_nothing_else() -> None:
    even, noisy = dealer(), dataclasses.replace(dealer(), timesteps=NOISY)
    drawn = {
        name: [timestep for step in range(60) for timestep in loader.at(step).timesteps_B.tolist()]
        for name, loader in (("even", even), ("noisy", noisy))
    }
    late = {name: sum(timestep >= 500 for timestep in timesteps) / 480 for name, timesteps in drawn.items()}
    assert late["even"] == 0.5  # stratified, so exactly
    assert late["noisy"] == pytest.approx(0.75, abs=0.03)
    assert max(drawn["noisy"]) < 1000
    assert even.at(3).noise_BCHW.equal(noisy.at(3).noise_BCHW)
    assert even.at(3).latents_BCHW.equal(noisy.at(3).latents_BCHW)


def test_preserve_rows_are_drawn_alike() -> None:
    loader = dataclasses.replace(dealer(preserve=synthetic()), timesteps=NOISY)
    drawn = [timestep for step in range(60) for timestep in loader.at(step).preserve_timesteps_B.tolist()]
    assert sum(timestep >= 500 for timestep in drawn) / len(drawn) == pytest.approx(0.75, abs=0.05)


def test_parts_of_a_batch_draw_what_the_whole_draws() -> None:
    loader = dataclasses.replace(dealer(), timesteps=NOISY)
    whole = loader.at(5).timesteps_B.tolist()
    parts = [loader.at(5, part=part, num_parts=2).timesteps_B.tolist() for part in range(2)]
    assert [parts[place % 2][place // 2] for place in range(8)] == whole


def test_settings_that_make_no_sense_are_refused_with_their_value() -> None:
    with pytest.raises(ValueError, match="alpha must be > 0 and finite, got 0"):
        Beta(alpha=0.0, beta=1.0)
    with pytest.raises(ValueError, match="beta must be > 0 and finite, got inf"):
        Beta(alpha=1.0, beta=float("inf"))
