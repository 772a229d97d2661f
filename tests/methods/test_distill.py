from __future__ import annotations

import dataclasses

import pytest
import torch

from evenhand.adapters.lora import Adapter, attach
from evenhand.adapters.settings import LoraSettings
from evenhand.interfaces import Batch, TextEmbedding
from evenhand.methods.passes import mean_square
from tests.tiny import LATENT_PX, randomize
from tests.tiny_training import distill as distilling

NEUTRAL = ["a portrait of a mechanic", "a portrait of a nurse", "a portrait of a doctor"]
EXPLICIT = ["a portrait of a female mechanic", "a portrait of a male nurse", "a portrait of a female doctor"]
KEPT = ["a portrait of a female mechanic", ""]
TIMESTEPS = [20, 400, 950]
WOMAN, MAN = "a portrait of a female mechanic", "a portrait of a male mechanic"


def drawn(count: int, *, seed: int) -> torch.Tensor:
    return torch.randn((count, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(seed))


def batch_for(base, *, explicit: list[str] = EXPLICIT, preserve: bool = True) -> Batch:
    kept = {
        "preserve_latents_BCHW": drawn(2, seed=1),
        "preserve_noise_BCHW": drawn(2, seed=2),
        "preserve_timesteps_B": torch.tensor([100, 800]),
        "preserve_text": base.encode_text(KEPT),
    }
    return Batch(
        latents_BCHW=drawn(3, seed=3),
        noise_BCHW=drawn(3, seed=4),
        timesteps_B=torch.tensor(TIMESTEPS),
        text=base.encode_text(NEUTRAL),
        explicit_text=base.encode_text(explicit),
        **(kept if preserve else {}),
    )


def fresh(base) -> Adapter:
    return attach(base, LoraSettings(rank=4, alpha=4.0, targets="attention"), seed=0)


def predicted(base, latents, noise, timesteps, text: TextEmbedding, *, adapter: bool) -> torch.Tensor:
    """Each row's prediction on its own, in float64, through the UNet itself and PEFT's own switch."""
    noisy = base.add_noise(latents, noise, timesteps)
    (base.unet.enable_adapters if adapter else base.unet.disable_adapters)()
    with torch.no_grad():
        rows = [
            base.unet(noisy[row : row + 1], timesteps[row : row + 1], text.hidden_BLD[row : row + 1]).sample
            for row in range(len(noisy))
        ]
    base.unet.enable_adapters()
    return torch.cat(rows).double()


@pytest.mark.parametrize("family", ["sd", "sd_epsilon"])
def test_the_loss_equals_its_equation_from_predictions_of_single_rows(request, family) -> None:
    base = request.getfixturevalue(family)
    randomize(fresh(base))
    batch = batch_for(base)
    main = (batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
    kept = (batch.preserve_latents_BCHW, batch.preserve_noise_BCHW, batch.preserve_timesteps_B, batch.preserve_text)
    student = predicted(base, *main, batch.text, adapter=True)
    teacher = predicted(base, *main, batch.explicit_text, adapter=False)
    distill = (student - teacher).square().mean().item()
    preserve = (predicted(base, *kept, adapter=True) - predicted(base, *kept, adapter=False)).square().mean().item()
    terms = distilling(preserve_weight=0.5).loss(base, batch)
    assert terms.parts["distill"].item() == pytest.approx(distill, rel=1e-4)
    assert terms.parts["preserve"].item() == pytest.approx(preserve, rel=1e-4)
    assert terms.total.item() == pytest.approx(distill + 0.5 * preserve, rel=1e-4)


@pytest.mark.parametrize("preserve", [True, False])
def test_rows_with_weights_count_by_them_and_without_any_the_loss_is_the_plain_mean_bit_for_bit(sd, preserve) -> None:
    randomize(fresh(sd))
    batch, weights = batch_for(sd, preserve=preserve), torch.tensor([0.25, 1.0, 1.75])
    main = (batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
    error = predicted(sd, *main, batch.text, adapter=True) - predicted(sd, *main, batch.explicit_text, adapter=False)
    of_rows = error.square().flatten(1).mean(dim=1)
    method = distilling(preserve_weight=0.5 if preserve else 0.0)
    plain, weighted = (method.loss(sd, dataclasses.replace(batch, weights_B=each)) for each in (None, weights))
    assert weighted.parts["distill"].item() == pytest.approx((weights * of_rows).mean().item(), rel=1e-4)
    assert plain.parts["distill"].item() == pytest.approx(of_rows.mean().item(), rel=1e-4)
    assert weighted.parts["distill"].item() != pytest.approx(plain.parts["distill"].item(), rel=1e-3)
    if preserve:
        assert torch.equal(weighted.parts["preserve"], plain.parts["preserve"])
    drawn_BCHW = drawn(5, seed=9)
    assert torch.equal(mean_square(drawn_BCHW, None), drawn_BCHW.square().mean())


@pytest.mark.parametrize("preserve", [True, False])
def test_where_explicit_and_neutral_captions_are_the_same_the_loss_is_zero_and_nothing_moves(sd, preserve) -> None:
    adapter = fresh(sd)
    method = distilling(preserve_weight=1.0 if preserve else 0.0)
    before = adapter.tensors()
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
    terms = method.loss(sd, batch_for(sd, explicit=NEUTRAL, preserve=preserve))
    assert terms.total.item() == 0.0
    terms.total.backward()
    optimizer.step()  # Adam makes a whole step of any gradient that is not exactly 0
    assert all(torch.equal(before[name], value) for name, value in adapter.tensors().items())


def test_where_they_differ_the_first_step_moves_the_adapter(sd) -> None:
    adapter = fresh(sd)
    before = adapter.tensors()
    distilling(preserve_weight=1.0).loss(sd, batch_for(sd)).total.backward()
    torch.optim.Adam(adapter.parameters.values(), lr=1e-2).step()
    assert not all(torch.equal(before[name], value) for name, value in adapter.tensors().items())


def test_the_prediction_moves_to_the_mean_of_the_teachers_in_the_targets_shares(sd) -> None:
    """Three rows of one value and one of the other at one ``x_t``: the least squares solution is known."""
    adapter = fresh(sd)
    latents, noise, timesteps = drawn(1, seed=5).repeat(4, 1, 1, 1), drawn(1, seed=6).repeat(4, 1, 1, 1), [700] * 4
    batch = Batch(
        latents_BCHW=latents,
        noise_BCHW=noise,
        timesteps_B=torch.tensor(timesteps),
        text=sd.encode_text(["a portrait of a mechanic"] * 4),
        explicit_text=sd.encode_text([WOMAN, WOMAN, WOMAN, MAN]),
    )
    rows = (latents, noise, batch.timesteps_B)
    teachers = predicted(sd, *rows, batch.explicit_text, adapter=False)
    wanted = 0.75 * teachers[0] + 0.25 * teachers[3]
    least = 0.75 * 0.25 * (teachers[0] - teachers[3]).square().mean().item()  # the variance of the teachers
    before = predicted(sd, *rows, batch.text, adapter=False)[0]
    method, num_steps = distilling(preserve_weight=0.0), 80
    optimizer = torch.optim.Adam(adapter.parameters.values())
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / num_steps)
        optimizer.zero_grad()
        loss = method.loss(sd, batch).total
        loss.backward()
        optimizer.step()
    after = predicted(sd, *rows, batch.text, adapter=True)[0]

    def far(one: torch.Tensor, other: torch.Tensor) -> float:
        return (one - other).square().mean().sqrt().item()

    assert loss.item() == pytest.approx(least, rel=0.05)
    assert loss.item() > least  # no prediction can be better
    assert far(after, wanted) < 0.2 * far(before, wanted)
    others = [teachers[0], teachers[3], (teachers[0] + teachers[3]) / 2]
    assert far(after, wanted) < 0.5 * min(far(after, other) for other in others)


def test_no_gradient_goes_through_the_teachers(sd) -> None:
    """They are replaced by numbers, from single rows, and the gradients are the same."""
    adapter = fresh(sd)
    randomize(adapter)
    batch = batch_for(sd)
    distilling(preserve_weight=1.0).loss(sd, batch).total.backward()
    both = {name: p.grad.clone() for name, p in adapter.parameters.items()}
    total = torch.zeros(())
    for rows, text, teacher_text in (
        ((batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B), batch.text, batch.explicit_text),
        (
            (batch.preserve_latents_BCHW, batch.preserve_noise_BCHW, batch.preserve_timesteps_B),
            batch.preserve_text,
            batch.preserve_text,
        ),
    ):
        constant = predicted(sd, *rows, teacher_text, adapter=False).float()
        total = total + (sd.denoise(sd.add_noise(*rows), rows[2], text) - constant).square().mean()
    for p in adapter.parameters.values():
        p.grad = None
    total.backward()
    for name, p in adapter.parameters.items():
        torch.testing.assert_close(p.grad, both[name], rtol=1e-3, atol=1e-6)


def test_preserve_sees_nothing_of_a_fresh_adapter_and_something_of_one_that_changes_things(sd) -> None:
    adapter = fresh(sd)
    method = distilling(preserve_weight=1.0)
    assert method.loss(sd, batch_for(sd)).parts["preserve"].item() == 0.0
    randomize(adapter)
    assert method.loss(sd, batch_for(sd)).parts["preserve"].item() > 1e-4


def test_rows_of_different_shapes_give_the_losses_of_their_own_passes(sd) -> None:
    randomize(fresh(sd))
    batch = batch_for(sd)
    half = slice(0, LATENT_PX // 2)
    halved = dataclasses.replace(
        batch,
        preserve_latents_BCHW=batch.preserve_latents_BCHW[:, :, half],
        preserve_noise_BCHW=batch.preserve_noise_BCHW[:, :, half],
    )
    whole, parts = (distilling(preserve_weight=1.0).loss(sd, each).parts for each in (batch, halved))
    assert parts["distill"].item() == pytest.approx(whole["distill"].item(), rel=1e-4)
    kept = (halved.preserve_latents_BCHW, halved.preserve_noise_BCHW, halved.preserve_timesteps_B, halved.preserve_text)
    wanted = (predicted(sd, *kept, adapter=True) - predicted(sd, *kept, adapter=False)).square().mean().item()
    assert parts["preserve"].item() == pytest.approx(wanted, rel=1e-4)


def test_the_teacher_reads_the_bases_own_embedding_of_preserve_captions_where_there_is_one(sd) -> None:
    fresh(sd)
    batch = batch_for(sd)
    trained = dataclasses.replace(batch, preserve_text=sd.encode_text(["a doctor", "a nurse"]))
    with_teacher = dataclasses.replace(trained, preserve_teacher_text=batch.preserve_text)
    method = distilling(preserve_weight=1.0)
    assert method.loss(sd, trained).parts["preserve"].item() == 0.0
    assert method.loss(sd, with_teacher).parts["preserve"].item() > 1e-6


def test_sdxl_reads_the_pooled_explicit_captions_and_gives_gradients(sdxl) -> None:
    randomize(fresh(sdxl))
    batch = batch_for(sdxl)
    terms = distilling(preserve_weight=1.0).loss(sdxl, batch)
    terms.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in sdxl.unet.parameters() if p.requires_grad)
    neutral_pooled = TextEmbedding(hidden_BLD=batch.explicit_text.hidden_BLD, pooled_BD=batch.text.pooled_BD)
    other = distilling(preserve_weight=1.0).loss(sdxl, dataclasses.replace(batch, explicit_text=neutral_pooled))
    assert other.parts["distill"].item() != pytest.approx(terms.parts["distill"].item(), rel=1e-6)


def test_a_batch_that_lacks_what_the_method_needs_is_refused_by_name(sd) -> None:
    fresh(sd)
    with pytest.raises(ValueError, match="needs explicit captions"):
        distilling(preserve_weight=0.0).loss(sd, dataclasses.replace(batch_for(sd), explicit_text=None))
    with pytest.raises(ValueError, match=r"train\.preserve_batch_size"):
        distilling(preserve_weight=1.0).loss(sd, batch_for(sd, preserve=False))
    with pytest.raises(ValueError, match=r"preserve_weight must be >= 0, got -1"):
        distilling(preserve_weight=-1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows_per_noise": 0}, r"rows_per_noise must be >= 1, got 0 \(method\.rows_per_noise\)"),
        ({"virtual_concepts": -0.1}, r"virtual_concepts must be in \[0, 1\], got -0\.1 \(method\.virtual_concepts\)"),
        ({"virtual_concepts": 1.5}, r"virtual_concepts must be in \[0, 1\], got 1\.5 \(method\.virtual_concepts\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed, message) -> None:
    assert distilling(rows_per_noise=1, virtual_concepts=1.0).virtual_concepts == 1.0
    with pytest.raises(ValueError, match=message):
        distilling(**changed)
