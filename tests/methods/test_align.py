"""Distributional alignment on a tiny base, with a planted reader of colours that has gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from evenhand.adapters.lora import attach
from evenhand.adapters.settings import LoraSettings
from evenhand.evaluation.targets import LeftAlone, Table, Uniform
from evenhand.interfaces import Batch, SamplingSettings
from evenhand.methods.align import Align
from evenhand.methods.transport import pseudo_targets
from evenhand.readers.differentiable import AttributeLogits
from evenhand.records import Attribute
from evenhand.seeds import derive
from tests.tiny import IMAGE_PX, LATENT_PX, randomize

CAPTIONS = ("a portrait of a mechanic", "a portrait of a nurse")
CONCEPTS = ("mechanic", "nurse")


def attribute(name: str, *values: str) -> Attribute:
    return Attribute(name=name, values=values, forms=dict.fromkeys(values, "{}"), words=dict.fromkeys(values, ()))


PRESENTATION = attribute("presentation", "woman", "man")
SKIN = attribute("skin", "light", "medium", "dark")


@dataclass
class Colors:
    """Reads a woman where red is above a bound, and skin from green; its own order of values is another one.

    Pictures whose blue is above ``blue_bound`` show nobody.
    """

    red_bound: float = 0.0
    gain: float = 20.0
    blue_bound: float = 9.0
    name: str = "colors"
    differentiable: bool = True
    attributes: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"presentation": ("man", "woman"), "skin": ("light", "medium", "dark")}
    )

    def load(self, *, device: torch.device) -> Colors:
        return self

    def logits(self, pixels_BCHW: torch.Tensor) -> dict[str, AttributeLogits]:
        red, green, blue = pixels_BCHW.mean(dim=(2, 3)).unbind(dim=1)
        woman = self.gain * (red - self.red_bound)
        skin = torch.stack([self.gain * green, torch.zeros_like(green), -self.gain * green], dim=1)
        shown = (blue < self.blue_bound)[:, None]
        return {
            "presentation": AttributeLogits(logits_BSK=torch.stack([-woman, woman], dim=1)[:, None], shown_BS=shown),
            "skin": AttributeLogits(logits_BSK=skin[:, None], shown_BS=shown),
        }


def align(reader: Colors | None = None, **changes: Any) -> Align:
    given: dict[str, Any] = {
        "attributes": {"first": PRESENTATION},
        "target": Uniform(),
        "targets": {},
        "reader": reader or Colors(),
        "evaluated_by": "another",
        "images_per_prompt": 6,
        "max_images": 48,
        "sampling_steps": 3,
        "gradient_steps": 3,
        "gradient": "adjusted",
        "guidance": 1.0,
        "num_draws": 40,
        "min_confidence": 0.8,
        "image_weight": 0.0,
        "changed_image_weight": 0.1,
        "kept_attributes": [],
        "kept_weight": 0.0,
        "preserve_weight": 0.0,
    }
    return Align(**{**given, **changes})


def batch_for(base, seeds: tuple[int, ...] = (11, 12), **changes: Any) -> Batch:
    zeros = torch.zeros((len(seeds), 4, LATENT_PX, LATENT_PX))
    given: dict[str, Any] = {
        "latents_BCHW": zeros,
        "noise_BCHW": zeros,
        "timesteps_B": torch.zeros(len(seeds), dtype=torch.int64),
        "text": base.encode_text(CAPTIONS[: len(seeds)]),
        "captions": CAPTIONS[: len(seeds)],
        "concepts": CONCEPTS[: len(seeds)],
        "row_seeds": seeds,
    }
    return Batch(**{**given, **changes})


def adapted(base, **changes: Any):
    return attach(base, LoraSettings(rank=4, alpha=4.0, targets="attention", **changes), seed=0)


def pictures(base, method: Align, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        latents = method._sampled(base, batch.text, method._noise(batch), gradient_steps=0)
        return base.decode_latents(latents)


def biased(base) -> Colors:
    """A reader to whom nearly every picture of the base shows a man."""
    red = pictures(base, align(), batch_for(base)).mean(dim=(2, 3))[:, 0]
    return Colors(red_bound=(red.mean() + 2 * red.std()).item(), gain=0.5 / red.std().item())


def share_of_women(base, method: Align, seeds: tuple[int, ...]) -> float:
    found = pictures(base, method, batch_for(base, seeds)).mean(dim=(2, 3))[:, 0] > method.reader.red_bound
    return found.float().mean().item()


def test_a_concept_that_is_left_alone_moves_nothing(sd) -> None:
    """The control: neither the target nor the base's pictures ask for a change, so no weight may move."""
    adapter = adapted(sd)
    before = adapter.tensors()
    method = align(biased(sd), target=LeftAlone(), image_weight=1.0, kept_attributes=["skin"], kept_weight=1.0)
    terms = method.loss(sd, batch_for(sd))
    assert terms.total.item() == pytest.approx(0.0, abs=1e-9)
    terms.total.backward()
    assert all(p.grad is not None for p in adapter.parameters.values())
    assert max(p.grad.abs().max().item() for p in adapter.parameters.values()) < 1e-6
    torch.optim.SGD(adapter.parameters.values(), lr=1.0).step()
    for name, value in adapter.tensors().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("gradient", ["adjusted", "exact"])
def test_a_biased_base_is_moved_to_the_target(sd, gradient) -> None:
    """The control where a known thing must be found: at most 1 of 8 pictures show a woman, and then about half."""
    adapter = adapted(sd)
    method = align(biased(sd), images_per_prompt=8, gradient=gradient)
    fresh = tuple(range(900, 902))
    assert share_of_women(sd, method, fresh) <= 0.13
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
    for step in range(24):
        optimizer.zero_grad()
        method.loss(sd, batch_for(sd, (2 * step, 2 * step + 1))).total.backward()
        optimizer.step()
    assert 0.2 <= share_of_women(sd, method, fresh) <= 0.8


def test_the_alignment_term_is_cross_entropy_to_confident_pseudo_targets_within_each_prompt(sd) -> None:
    """By hand in NumPy, from the pictures' colours; the mechanic's pictures know nothing of the nurse's."""
    randomize(adapted(sd))
    method = align(biased(sd), target=Table(rows={"mechanic": [0.8, 0.2], "*": [0.5, 0.5]}, source="made up"))
    batch = batch_for(sd)
    red = pictures(sd, method, batch).mean(dim=(2, 3))[:, 0].double().numpy()
    woman = 1 / (1 + np.exp(-2 * method.reader.gain * (red - method.reader.red_bound)))
    wanted, pulled = 0.0, 0
    for row, (shares, seed) in enumerate(zip(([0.8, 0.2], [0.5, 0.5]), batch.row_seeds, strict=True)):
        probs = np.stack([woman, 1 - woman], axis=1)[6 * row : 6 * row + 6]
        found = pseudo_targets(probs, np.array(shares), num_draws=40, seed=derive(seed, "target"))
        for own, cell, sure in zip(probs, found.cell_N, found.confidence_N, strict=True):
            if sure >= 0.8:
                wanted, pulled = wanted - np.log(own[cell]) / 12, pulled + 1
    terms = method.loss(sd, batch)
    assert pulled > 0
    assert terms.parts["align"].item() == pytest.approx(wanted, rel=1e-3)
    assert terms.parts["pulled"].item() == pytest.approx(pulled / 12)
    assert terms.parts["shown"].item() == 1.0
    assert terms.total.item() == terms.parts["align"].item()


@pytest.mark.parametrize("key", ["presentation,skin", "joint"])
def test_a_joint_target_is_over_cells_and_the_last_attribute_varies_fastest(sd, key) -> None:
    method = align(
        attributes={"first": PRESENTATION, "second": SKIN},
        targets={key: Table(rows={"*": [0, 0, 1.0, 0, 0, 0]}, source="made up")},
    )
    batch = batch_for(sd)
    seen = pictures(sd, method, batch).mean(dim=(2, 3)).double().numpy()
    woman = 1 / (1 + np.exp(-2 * 20 * seen[:, 0]))
    dark = 1 / (1 + np.exp(20 * seen[:, 1]) + np.exp(40 * seen[:, 1]))  # of logits 20 g, 0, -20 g
    terms = method.loss(sd, batch)
    assert terms.parts["align"].item() == pytest.approx(-np.log(woman * dark).mean(), rel=1e-3)


def test_separate_targets_multiply(sd) -> None:
    attributes = {"first": PRESENTATION, "second": SKIN}
    rows = {"*": [0.0, 0.0, 1.0]}
    apart = align(attributes=attributes, target=Table(rows={"*": [1.0, 0.0]}, source="x"), targets={
        "skin": Table(rows=rows, source="x")})  # fmt: skip
    joint = {"presentation,skin": Table(rows={"*": [0, 0, 1.0, 0, 0, 0]}, source="x")}
    together = align(attributes=attributes, targets=joint)
    batch = batch_for(sd)
    assert apart.loss(sd, batch).total.item() == pytest.approx(together.loss(sd, batch).total.item(), rel=1e-6)


def test_pictures_that_show_nobody_are_not_pulled(sd) -> None:
    adapter = adapted(sd)
    terms = align(Colors(blue_bound=-9.0)).loss(sd, batch_for(sd))
    assert (terms.parts["align"].item(), terms.parts["shown"].item()) == (0.0, 0.0)
    terms.total.backward()
    assert not any(p.grad.any() for p in adapter.parameters.values())


def test_pictures_are_held_to_the_bases_less_where_they_are_to_change(sd) -> None:
    """With one share of 1 every picture that the base shows as a man is to change, or none."""
    randomize(adapted(sd))
    batch = batch_for(sd)
    reader = Colors(red_bound=9.0)  # all are men
    parts = {
        name: align(reader, target=Table(rows={"*": shares}, source="x"), image_weight=1.0).loss(sd, batch).parts
        for name, shares in {"women": [1.0, 0.0], "men": [0.0, 1.0]}.items()
    }
    with sd.without_adapter():
        before = pictures_latents(sd, batch)
    moved = (pictures_latents(sd, batch) - before).square().mean().item()
    assert parts["men"]["image"].item() == pytest.approx(moved, rel=1e-3)
    assert parts["women"]["image"].item() == pytest.approx(0.1 * moved, rel=1e-3)


def test_pictures_whose_value_hangs_on_the_draw_are_held_like_those_that_are_to_change(sd) -> None:
    """As in the authors' code. Nobody can be sure of a half that is drawn anew; the control is left alone."""
    randomize(adapted(sd))
    batch = batch_for(sd)
    with sd.without_adapter():
        before = pictures_latents(sd, batch)
    moved = (pictures_latents(sd, batch) - before).square().mean().item()
    for target, weight in ((Uniform(), 0.1), (LeftAlone(), 1.0)):
        method = align(target=target, image_weight=1.0, min_confidence=1.0, num_draws=800)
        parts = method.loss(sd, batch).parts
        assert parts["pulled"].item() == 0.0
        assert parts["image"].item() == pytest.approx(weight * moved, rel=1e-3)


def pictures_latents(base, batch: Batch) -> torch.Tensor:
    method = align()
    with torch.no_grad():
        return method._sampled(base, batch.text, method._noise(batch), gradient_steps=0)


def test_other_attributes_are_held_to_what_the_reader_says_of_the_bases_pictures(sd) -> None:
    """KL in NumPy from the green of both pictures."""
    randomize(adapted(sd))
    batch, method = batch_for(sd), align(kept_attributes=["skin"], kept_weight=2.0, gradient_steps=1)

    def log_probs(green: np.ndarray) -> np.ndarray:
        logits = 20 * np.stack([green, 0 * green, -green], axis=1)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    after = log_probs(pictures(sd, method, batch).mean(dim=(2, 3))[:, 1].double().numpy())
    with sd.without_adapter():
        before = log_probs(pictures(sd, method, batch).mean(dim=(2, 3))[:, 1].double().numpy())
    terms = method.loss(sd, batch)
    wanted = (np.exp(before) * (before - after)).sum(axis=1).mean()
    assert wanted > 1e-6
    assert terms.parts["kept"].item() == pytest.approx(wanted, rel=1e-2)
    assert terms.total.item() == pytest.approx(terms.parts["align"].item() + 2 * terms.parts["kept"].item(), rel=1e-5)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_guided_pictures_are_those_of_the_stock_pipeline(request, family) -> None:
    base = request.getfixturevalue(family)
    method = align(guidance=3.0, sampling_steps=4, gradient_steps=1, images_per_prompt=1)
    sampling = SamplingSettings(steps=4, guidance=3.0, height_px=IMAGE_PX, width_px=IMAGE_PX)
    made = base.generate(CAPTIONS, [5, 6], sampling)
    noise = torch.cat(
        [torch.randn((1, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    )
    with torch.no_grad():
        latents = method._sampled(base, base.encode_text(CAPTIONS), noise, gradient_steps=0)
        found = ((base.decode_latents(latents) + 1) * 127.5).clamp(0, 255)
    wanted = torch.from_numpy(np.stack([np.asarray(each.image) for each in made])).permute(0, 3, 1, 2)
    assert (found - wanted).abs().max().item() <= 1.0  # 8 bits


def test_a_trained_text_encoder_has_gradients_and_the_base_keeps_its_own_words(sd) -> None:
    adapter = adapted(sd, text_encoder="attention")
    randomize(adapter, std=0.5)
    with sd.without_adapter():
        plain = sd.encode_text(CAPTIONS)
    with torch.no_grad():
        before = sd.embed_text(CAPTIONS)
    assert not torch.equal(plain.hidden_BLD, before.hidden_BLD)
    batch = batch_for(sd, text=sd.embed_text(CAPTIONS))
    method = align(target=LeftAlone(), image_weight=1.0)
    terms = method.loss(sd, batch)
    after = pictures_latents(sd, batch)
    with sd.without_adapter():
        wanted = pictures_latents(sd, batch_for(sd, text=plain))
    assert terms.parts["image"].item() == pytest.approx((after - wanted).square().mean().item(), rel=1e-3)
    terms.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters.values())


def test_preserve_is_that_of_the_captions_that_must_not_change(sd) -> None:
    adapter = adapted(sd)
    drawn = torch.randn((2, 4, LATENT_PX, LATENT_PX), generator=torch.Generator().manual_seed(1))
    kept = {
        "preserve_latents_BCHW": drawn,
        "preserve_noise_BCHW": drawn.flip(0),
        "preserve_timesteps_B": torch.tensor([100, 800]),
        "preserve_text": sd.encode_text(["a tree", ""]),
    }
    batch, method = batch_for(sd, **kept), align(preserve_weight=0.5)
    assert method.uses_preserve
    assert method.loss(sd, batch).parts["preserve"].item() == 0.0
    randomize(adapter)
    noisy = sd.add_noise(drawn, drawn.flip(0), kept["preserve_timesteps_B"])
    with torch.no_grad():
        changed = sd.denoise(noisy, kept["preserve_timesteps_B"], kept["preserve_text"])
        with sd.without_adapter():
            changed -= sd.denoise(noisy, kept["preserve_timesteps_B"], kept["preserve_text"])
    terms = method.loss(sd, batch)
    assert terms.parts["preserve"].item() == pytest.approx(changed.square().mean().item(), rel=1e-4)
    assert terms.total.item() == pytest.approx(
        terms.parts["align"].item() + 0.5 * terms.parts["preserve"].item(), rel=1e-5
    )


class Watched(Colors):
    """Remembers whether autocast was on, and the pixels that it was shown."""

    def logits(self, pixels_BCHW: torch.Tensor) -> dict[str, AttributeLogits]:
        self.seen = (torch.is_autocast_enabled("cpu"), pixels_BCHW.detach())
        return super().logits(pixels_BCHW)


def test_under_autocast_pictures_are_decoded_and_read_in_the_precision_of_vae_and_reader(sd) -> None:
    """The published SDXL VAE overflows in half precision, and readings are to be those of an evaluation."""
    adapted(sd)
    method, batch = align(reader := Watched(), gradient_steps=1), batch_for(sd)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method.loss(sd, batch).total.backward()
        with torch.no_grad():
            latents = method._sampled(sd, batch.text, method._noise(batch), gradient_steps=0)
            rounded = sd.decode_latents(latents)
    was_on, pixels = reader.seen
    assert not was_on
    assert torch.equal(pixels, sd.decode_latents(latents))
    assert not torch.equal(pixels, rounded)  # so it makes a difference here
