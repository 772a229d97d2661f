from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from evenhand.data.buckets import Bucket, Crop, crop_to_bucket
from evenhand.data.images import EXIF_ORIENTATION, ImageFile, ImageSettings, choose_crop, load_pixels, open_images

SETTINGS = {
    "resolution_px": None,
    "max_aspect": 1.0,
    "max_enlargement": 2.0,
    "encode_batch_size": 4,
    "shard_images": 8,
}


def bucket(width: int, height: int) -> Bucket:
    return Bucket(height_px=height, width_px=width)


def pixels(path, *buckets: Bucket) -> np.ndarray:
    (image,) = open_images([path])
    return load_pixels(path, choose_crop(image, buckets, max_enlargement=4.0)).numpy()


def photograph(path, *, quality: int = 90):
    """A JPEG of 40 x 24 px as a camera that was turned writes it: stored lying, to be seen standing."""
    levels = np.zeros((24, 40, 3), dtype=np.uint8)
    levels[:, :20] = 255
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # turn by 90 degrees clockwise
    Image.fromarray(levels).save(path, quality=quality, exif=exif)
    return levels


def test_a_file_is_known_by_its_bytes_and_its_size(tmp_path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (image,) = open_images([tmp_path / "a.png"])
    assert (image.width_px, image.height_px) == (30, 20)
    assert image.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


def test_pixels_are_the_crop_between_minus_one_and_one(tmp_path) -> None:
    levels = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(4, 8, 3)
    Image.fromarray(levels).save(tmp_path / "wide.png")
    wanted = (levels.astype(np.float64) / 255 * 2 - 1).transpose(2, 0, 1)
    np.testing.assert_allclose(pixels(tmp_path / "wide.png", bucket(4, 4)), wanted[:, :, 2:6], atol=1e-6)
    np.testing.assert_allclose(pixels(tmp_path / "wide.png", bucket(8, 4)), wanted, atol=1e-6)
    assert pixels(tmp_path / "wide.png", bucket(16, 16)).shape == (3, 16, 16)


def test_a_resized_crop_is_what_pil_makes_of_the_same_rectangle(tmp_path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, size=(60, 90, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    wanted = Image.fromarray(levels[:, 3:87]).resize(
        (28, 20), Image.Resampling.LANCZOS
    )  # 84 x 60 has the form of 28 x 20
    got = (pixels(tmp_path / "a.png", bucket(28, 20)).transpose(1, 2, 0) + 1) / 2 * 255
    np.testing.assert_allclose(got, np.asarray(wanted, dtype=np.float64), atol=1e-3)


def test_a_photograph_is_seen_as_its_camera_was_held(tmp_path) -> None:
    photograph(tmp_path / "a.jpg")
    (image,) = open_images([tmp_path / "a.jpg"])
    assert (image.width_px, image.height_px) == (24, 40)
    got = pixels(tmp_path / "a.jpg", bucket(24, 40))
    assert got[:, :18].mean() > 0.98  # what was on the left is on top
    assert got[:, 22:].mean() < -0.98


@pytest.mark.parametrize("kind", ["no image", "cut short", "flipped bit", "empty"])
def test_a_file_that_is_no_whole_image_is_refused_by_name_before_anything_is_decoded(tmp_path, kind) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(20, 20, 3), dtype=np.uint8)).save(good)
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    contents = {"no image": b"no", "cut short": good.read_bytes()[:300], "flipped bit": bytes(content), "empty": b""}
    bad.write_bytes(contents[kind])
    assert len(open_images([good])) == 1
    with pytest.raises(
        ValueError, match=r"bad\.png cannot be read as an image: [^<]*\(replace the file, or remove its row\)"
    ):
        open_images([good, bad])


def test_a_photograph_that_is_cut_short_is_refused_by_name_when_it_is_decoded(tmp_path) -> None:
    photograph(tmp_path / "a.jpg")
    crop = Crop(top_px=0, left_px=0, height_px=40, width_px=24, bucket=bucket(24, 40))
    assert load_pixels(tmp_path / "a.jpg", crop).shape == (3, 40, 24)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read as an image: (?i:.*truncated)"):
        load_pixels(tmp_path / "a.jpg", crop)


def test_an_image_that_would_be_enlarged_too_much_is_refused_with_its_size(tmp_path) -> None:
    image = ImageFile(path=tmp_path / "small.png", sha256="", height_px=300, width_px=250)
    allowed = choose_crop(image, [bucket(500, 500)], max_enlargement=2.0)
    assert allowed == crop_to_bucket([bucket(500, 500)], height_px=300, width_px=250)
    with pytest.raises(ValueError, match=r"small\.png is 250x300 px and would be enlarged 2\.05 times to 512x512 px"):
        choose_crop(image, [bucket(512, 512)], max_enlargement=2.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolution_px", 0),
        ("max_aspect", 0.5),
        ("max_enlargement", 0.0),
        ("encode_batch_size", 0),
        ("shard_images", 0),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_value(name, value) -> None:
    ImageSettings(**SETTINGS)
    with pytest.raises(ValueError, match=rf"{name} must be >= 1.*, got {value} \(images\.{name}\)"):
        ImageSettings(**{**SETTINGS, name: value})


@pytest.mark.parametrize(("side_px", "together"), [(64, 4), (128, 1), (512, 1), (8, 256)])
def test_as_many_images_are_encoded_together_as_are_cheap_and_one_at_least(side_px: int, together: int) -> None:
    square = bucket(side_px, side_px)
    assert ImageSettings(**{**SETTINGS, "encode_batch_size": None}).images_together(square) == together
    assert ImageSettings(**{**SETTINGS, "encode_batch_size": 3}).images_together(square) == 3
