"""What a reader says of pixels with gradients, against what the same reader says of the same pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTImageProcessorPil

from evenhand.construct import build
from evenhand.interfaces import SamplingSettings
from evenhand.paths import conf_folder
from evenhand.readers.differentiable import Pixels
from evenhand.readers.image_classification import ImageClassification
from evenhand.readers.zero_shot import Phrases, ZeroShot
from tests.tiny_readers import save_classifier, save_clip, save_siglip

CPU = torch.device("cpu")
CAPTIONS = ["a portrait of a mechanic", "a portrait of a nurse", "a meetup of python developers", "a photo of a car"]


def conf(group: str, name: str):
    return build(yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text()), key=group)


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    """8-bit pictures as the VAE would give them."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Two people, a group and a car, by tinytown's own base."""
    base = conf("base", "tinytown").load(device=CPU, dtype=torch.float32)
    sampling = SamplingSettings(steps=8, guidance=1.0, height_px=64, width_px=64)
    return [made.image for made in base.generate(CAPTIONS, [3, 4, 5, 6], sampling)]


@pytest.fixture(scope="module", params=["tinytown_a", "tinytown_b"])
def reader(request):
    return conf("reader", request.param).load(device=CPU)


def test_logits_are_those_of_the_heads_that_the_reader_reads(reader, pictures) -> None:
    logits = reader.logits(pixels_of(pictures))
    heads = reader.head_probs(pictures)
    for name in ("presentation", "skin", "glasses"):
        probs = logits[name].logits_BSK.softmax(dim=2)
        places = {(0, 0): "", (1, 0): "", (2, 0): "0.", (2, 1): "1.", (2, 2): "2."}
        for (image, place), prefix in places.items():
            assert probs[image, place].tolist() == pytest.approx(heads[image][prefix + name], abs=1e-4)


def test_subjects_are_shown_where_the_reader_finds_them(reader, pictures) -> None:
    """`read` says it in another way: a reading of a value, or a reason why there is none."""
    logits = reader.logits(pixels_of(pictures))
    for name in ("presentation", "season", "occupation"):
        for image, readings in enumerate(reader.read(pictures)):
            found = {entry.subject for entry in readings if entry.attribute == name and entry.value is not None}
            shown = {place for place, there in enumerate(logits[name].shown_BS[image].tolist()) if there}
            unsure = {entry.subject for entry in readings if "lead" in (entry.unread or "")}
            assert found <= shown <= found | unsure | {e.subject for e in readings if e.attribute == name and e.probs}
    assert logits["presentation"].shown_BS[:, 0].tolist() == [True, True, True, False]
    assert not logits["season"].shown_BS.any()


def test_a_step_along_the_gradient_changes_what_is_read_and_nothing_of_the_reader(reader, pictures) -> None:
    before = {name: value.clone() for name, value in reader._network.state_dict().items()}
    pixels = pixels_of(pictures[:2]).requires_grad_()
    first = reader.logits(pixels)["presentation"].logits_BSK[:, 0].log_softmax(dim=1)
    first[0, 0].backward()  # the mechanic as a woman
    assert pixels.grad[0].any()
    assert not pixels.grad[1].any()
    assert all(parameter.grad is None for parameter in reader._network.parameters())
    with torch.no_grad():
        moved = pixels + 0.02 * pixels.grad.sign()
        after = reader.logits(moved)["presentation"].logits_BSK[:, 0].log_softmax(dim=1)
    assert after[0, 0] > first[0, 0] + 0.1
    assert after[1].tolist() == pytest.approx(first[1].tolist(), abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in reader._network.state_dict().items())


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("side", [32, 64, 96])
def test_pixels_are_those_of_the_processor_up_to_its_rounding(resample, side) -> None:
    random = np.random.default_rng(side)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = coarse.resize((64, 64), Image.Resampling.BICUBIC)
    size = {"height": side, "width": side}
    processor = ViTImageProcessorPil(size=size, resample=resample, image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3)
    wanted = processor(images=[picture], return_tensors="pt")["pixel_values"]
    found = Pixels(processor, reader="r").of(pixels_of([picture]))
    assert found.shape == wanted.shape
    # a picture is rounded to 1/255 after resizing, and divided by the std
    assert (found - wanted).abs().max().item() <= (1e-5 if side == 64 else 1.2 / 255 / 0.2)


def test_processors_that_do_more_are_refused() -> None:
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=0)
    with pytest.raises(ValueError, match=r"reader r: resizes with PIL's filter 0"):
        Pixels(processor, reader="r")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, do_pad=True)
    with pytest.raises(ValueError, match=r"reader r: its image processor has do_pad"):
        Pixels(processor, reader="r")


def test_processors_that_do_something_of_their_own_are_found_by_what_they_give() -> None:
    """ConvNext's: small sides are resized to themselves by ``crop_pct`` and cut, large ones squeezed into a square.

    No key that begins with ``do_`` says so. The control are the processors of the test above, which are taken.
    """
    from transformers import ConvNextImageProcessorPil

    for side in (64, 384):
        own = ConvNextImageProcessorPil(size={"shortest_edge": side}, crop_pct=0.875, resample=2)
        with pytest.raises(ValueError, match="reader r: its image processor ConvNextImageProcessorPil gives other"):
            Pixels(own, reader="r")


def plain(folder: Path, subjects: object = None) -> ImageClassification:
    return ImageClassification(
        name="plain", model=str(folder), revision=None, license="none", validated_on="nothing", subjects=subjects,
        attribute="presentation", values={"woman": ["Woman", "Girl"], "man": ["Man"]}, min_lead=0.0,
    )  # fmt: skip


def test_a_plain_classifier_gives_what_it_reads_and_shows_none_for_another_label(tmp_path) -> None:
    save_classifier(tmp_path, ("Man", "dog", "Woman", "Girl"))
    reader = plain(tmp_path).load(device=CPU)
    pictures = [Image.new("RGB", (64, 64), (9, 99, 200))]
    for bias, shown in (([1.0, 0.0, 2.0, 0.5], True), ([1.0, 9.0, 2.0, 0.5], False)):
        with torch.no_grad():
            reader._network.classifier[1].bias.copy_(torch.tensor(bias))
        (reading,) = reader.read(pictures)[0]
        found = reader.logits(pixels_of(pictures))["presentation"]
        assert found.logits_BSK[0, 0].softmax(dim=0).tolist() == pytest.approx(reading.probs, abs=1e-5)
        assert found.shown_BS.tolist() == [[shown]]
        assert (reading.value is not None) == shown


def test_a_reader_with_a_finder_says_that_it_has_no_gradients(tmp_path) -> None:
    class Finder:
        def load(self, *, device: torch.device) -> Finder:
            return self

    save_classifier(tmp_path, ("Man", "Woman", "Girl"))
    assert plain(tmp_path).differentiable
    assert not plain(tmp_path, Finder()).differentiable
    with pytest.raises(ValueError, match="what its finder cuts out has no gradient"):
        plain(tmp_path, Finder()).load(device=CPU).logits(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_a_zero_shot_reader_gives_what_it_reads(save, tmp_path) -> None:
    """`read` makes probabilities of 8-bit pictures in float64, of CLIP's softmax or of SigLIP's sigmoids."""
    save(tmp_path)
    phrases = Phrases(
        templates=("a {}",), nouns=(), values={"woman": ["lady", "girl"], "man": ["gentleman", "boy"]},
        none_of_these=("car", "tree"), missing="no person found",
    )  # fmt: skip
    settings = {"revision": None, "license": "none", "validated_on": "nothing", "subjects": None}
    choice = ZeroShot(
        name="z", model=str(tmp_path), phrases={"presentation": phrases}, min_score=0.0, min_lead=0.0, **settings
    )
    assert choice.differentiable
    reader = choice.load(device=CPU)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(6)]
    pixels = pixels_of(pictures).requires_grad_()
    found = reader.logits(pixels)["presentation"]
    for number, ((reading,), probs) in enumerate(
        zip(reader.read(pictures), found.logits_BSK[:, 0].softmax(dim=1), strict=True)
    ):
        assert probs.tolist() == pytest.approx(reading.probs, abs=1e-4)
        assert found.shown_BS[number].item() == (reading.value is not None)
    found.logits_BSK[0, 0, 0].backward()
    assert pixels.grad[0].any()
    assert not pixels.grad[1:].any()
