from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from evenhand.hygiene.images import FORMATS, CheckedImage, ImageLimits, Refused, check_image
from tests.bad_pictures import (
    animated_gif,
    bomb,
    encode,
    picture,
    png_16_bits,
    png_without_pixels,
    with_location,
)

LIMITS = ImageLimits(min_side_px=32, max_pixels=4_000_000, max_aspect=3.0, max_bytes=2_000_000)


def checked(content: bytes, *, name: str = "", limits: ImageLimits = LIMITS) -> CheckedImage:
    return check_image(content, limits, name=name)


def refusal(content: bytes, *, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(Refused) as caught:
        check_image(content, limits, name="x")
    return caught.value.reason


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_a_good_picture_stays_what_it_is() -> None:
    image = picture(48)
    content = encode(image, "PNG")
    found = checked(content, name="train/a.png")
    assert np.array_equal(levels(found.image), levels(image))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.format, found.notes, found.image.mode, found.image.info) == ("PNG", (), "RGB", {})


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_opened_by_its_bytes(format: str) -> None:
    found = checked(encode(picture(48), format), name="no_suffix")
    assert (found.format, found.notes) == (format, ())
    assert np.abs(levels(found.image).astype(int) - levels(picture(48))).mean() < 16  # GIF has 256 colours


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_cut_short_is_refused(format: str) -> None:
    content = encode(picture(200), format)
    for length in (20, len(content) // 4, len(content) // 2, int(len(content) * 0.9)):
        assert refusal(content[:length]).split(" (")[0] in ("truncated", "undecodable"), length


def test_most_formats_say_that_they_are_truncated() -> None:
    for format in ("PNG", "JPEG", "BMP"):
        content = encode(picture(200), format)
        assert refusal(content[: len(content) // 2]) == "truncated"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html><body>404", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "not a picture"),
        (b"P6 64 64 255\n" + bytes(64 * 64 * 3), "not a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    ],
)
def test_what_is_no_picture_of_ours_is_refused_unopened(content: bytes, reason: str) -> None:
    """EPS would start Ghostscript, so it is not on the list of formats."""
    assert refusal(content).split(" (")[0] == reason


def test_sizes_are_looked_at_before_anything_is_decoded() -> None:
    """These files end where their pixels would begin: the reason is their size all the same."""
    assert refusal(png_without_pixels(1, 1)) == "too small (1x1 px, less than 32)"
    assert refusal(png_without_pixels(64, 31)) == "too small (64x31 px, less than 32)"
    assert refusal(png_without_pixels(640, 64)) == "too long or too high (640x64 px, sides more than 3 to 1)"
    assert refusal(png_without_pixels(10_000, 10_000)) == "too many pixels (10000x10000 px, more than 4000000)"
    assert refusal(png_without_pixels(100_000, 100_000)) == "too many pixels (100000x100000 px, more than 4000000)"
    assert refusal(png_without_pixels(64, 64)) == "truncated"  # the control


def test_a_bomb_is_refused_without_memory(capfd: pytest.CaptureFixture[str]) -> None:
    """The file is whole: 300 MB when decoded. Pillow would warn of it on stderr."""
    content = bomb()
    assert len(content) < 400_000
    assert refusal(content).startswith("too many pixels")
    assert capfd.readouterr() == ("", "")


def test_a_file_with_too_many_bytes_is_not_opened() -> None:
    assert refusal(bytes(LIMITS.max_bytes + 1)) == "file too large (2000001 bytes, more than 2000000)"
    assert refusal(bytes(LIMITS.max_bytes)).startswith("not a picture")  # the control


def test_cmyk_becomes_rgb() -> None:
    """Ink by hand: none is white, cyan takes the red away, black takes all."""
    inks = np.zeros((40, 40, 4), dtype=np.uint8)
    inks[:, 10:20, 0], inks[:, 20:30, 3] = 255, 255
    found = checked(encode(Image.fromarray(inks, mode="CMYK"), "TIFF"))
    row = levels(found.image)[5, ::10].tolist()
    assert row == [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 255, 255]]
    assert found.notes == ("CMYK converted",)


def test_sixteen_bits_become_eight_and_are_not_clipped() -> None:
    grey = (np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).astype(np.uint16)
    found = checked(encode(Image.fromarray(grey), "PNG"))
    assert np.array_equal(levels(found.image)[:, :, 1], grey // 256)
    colours = np.stack([grey, 65535 - grey, grey // 2], axis=2)
    found_colours = checked(png_16_bits(colours))
    assert np.array_equal(levels(found_colours.image), colours // 256)
    assert found.notes == found_colours.notes == ("16 bits made 8",)


def test_pixels_without_a_known_range_are_refused() -> None:
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    assert refusal(encode(Image.fromarray(values), "TIFF")) == "pixels without a known range (mode F)"


def test_transparency_is_laid_on_white() -> None:
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (20, 0, 40, 40))
    for content in (encode(palette, "PNG", transparency=0), encode(palette, "PNG", transparency=b"\0\xff")):
        found = checked(content)
        assert levels(found.image)[5, [5, 35]].tolist() == [[255, 255, 255], [0, 0, 255]]
        assert found.notes == ("transparency laid on white",)
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert levels(checked(encode(half, "PNG")).image)[0, 0].tolist() == [127, 127, 127]
    whole = Image.new("RGBA", (40, 40), (9, 8, 7, 255))
    assert checked(encode(whole, "PNG")).notes == ()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    red, blue = Image.new("RGB", (40, 40), (255, 0, 0)), Image.new("RGB", (40, 40), (0, 0, 255))
    gif = checked(animated_gif(red, blue, red))
    assert levels(gif.image)[0, 0].tolist() == [255, 0, 0]
    assert gif.notes == ("first frame of several",)
    for format in ("WEBP", "PNG"):
        found = checked(encode(blue, format, save_all=True, append_images=[red]))
        assert found.notes == ("first frame of several",)
        assert levels(found.image)[0, 0, 2] > 240


def test_a_wrong_suffix_is_noted_and_the_bytes_decide() -> None:
    content = encode(picture(), "PNG")
    assert checked(content, name="a/b.JPG").notes == ("named .jpg, is PNG",)
    assert checked(content, name="a/b.jpeg::3").notes == checked(content, name="row 17").notes == ()


TURNED = {  # EXIF 2.3, table 6: where row 0 and column 0 of what is stored lie in the picture as it is meant
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_picture_is_turned_as_its_exif_says(orientation: int, format: str) -> None:
    stored = picture(40, height_px=60)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = checked(encode(stored, format, exif=exif))
    assert np.array_equal(levels(found.image), TURNED[orientation](levels(stored)))


def test_no_metadata_is_kept() -> None:
    found = checked(with_location(picture(60, height_px=40), orientation=6))
    assert found.notes == ("EXIF with a location removed", "turned upright")
    assert found.image.size == (40, 60)
    assert found.image.info == {}
    assert dict(found.image.getexif()) == {}
    written = encode(found.image, "PNG")
    assert {written[at + 4 : at + 8] for at in chunk_starts(written)} == {b"IHDR", b"IDAT", b"IEND"}
    texts = encode(picture(), "PNG", pnginfo=png_texts())
    assert b"a secret" in texts
    assert checked(texts).image.info == {}


def png_texts() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a secret prompt")
    return info


def chunk_starts(png: bytes) -> list[int]:
    starts, at = [], 8
    while at < len(png):
        starts.append(at)
        at += 12 + struct.unpack(">I", png[at : at + 4])[0]
    return starts


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_costs_nothing() -> None:
    found = checked(encode(picture(), "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + b"\x07" * 40))
    assert found.image.size == (64, 64)


def swapped_profile() -> bytes:
    """The profile of sRGB with its red and blue primaries exchanged, under another name."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for number in range(struct.unpack(">I", content[128:132])[0]):
        at = 132 + 12 * number
        places[bytes(content[at : at + 4])] = at
    red, blue = places[b"rXYZ"] + 4, places[b"bXYZ"] + 4
    content[red : red + 8], content[blue : blue + 8] = content[blue : blue + 8], content[red : red + 8]
    return bytes(content).replace("sRGB".encode("utf-16-be"), "tXYZ".encode("utf-16-be")).replace(b"sRGB ", b"tXYZ ")


def test_colours_are_those_of_srgb() -> None:
    """In the swapped profile pure red is the blue of sRGB."""
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    found = checked(encode(red, "PNG", icc_profile=swapped_profile()))
    assert np.abs(levels(found.image)[0, 0].astype(int) - (0, 0, 255)).max() <= 3
    assert found.notes == ("colours converted to sRGB",)


def test_a_profile_that_says_nothing_new_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture()
    kept = checked(encode(image, "PNG", icc_profile=srgb))
    assert np.array_equal(levels(kept.image), levels(image))
    assert kept.notes == ()
    broken = checked(encode(image, "PNG", icc_profile=b"no profile"))
    assert np.array_equal(levels(broken.image), levels(image))
    assert broken.notes == ("unreadable colour profile ignored",)


@pytest.mark.parametrize("format", FORMATS)
def test_whatever_the_bytes_are_there_is_a_picture_or_a_reason(format: str) -> None:
    rng = np.random.default_rng(3)
    content = np.frombuffer(encode(picture(40), format), dtype=np.uint8)
    reasons, num_pictures = [], 0
    for _ in range(60):
        spoilt = content.copy()
        places = rng.integers(2, len(spoilt), size=int(rng.integers(1, 12)))
        spoilt[places] = rng.integers(0, 256, size=len(places))
        try:
            num_pictures += checked(spoilt.tobytes()).image.mode == "RGB"
        except Refused as error:
            reasons.append(error.reason)
    assert num_pictures + len(reasons) == 60
    assert [reason for reason in reasons if not reason or "\n" in reason] == []


def test_a_grey_picture_of_one_bit_is_opened() -> None:
    stripes = Image.new("1", (40, 40), 1)
    stripes.paste(0, (0, 0, 20, 40))
    assert levels(checked(encode(stripes, "PNG")).image)[0, [0, 39]].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"min_side_px": 0}, "min_side_px"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_pixels": 1023}, "max_pixels=1023 leaves no picture of min_side_px=32"),
        ({"max_aspect": 0.5}, "max_aspect must be >= 1, got 0.5"),
        ({"max_aspect": float("nan")}, "max_aspect"),
    ],
)
def test_limits_that_leave_nothing_are_refused(changed: dict[str, float], words: str) -> None:
    good = {"min_side_px": 32, "max_pixels": 4_000_000, "max_aspect": 3.0, "max_bytes": 2_000_000}
    with pytest.raises(ValueError, match=words):
        ImageLimits(**{**good, **changed})


def test_threads_find_the_same_as_one() -> None:
    from concurrent.futures import ThreadPoolExecutor

    contents = [encode(picture(64, seed), format) for seed in range(20) for format in ("PNG", "JPEG")]
    with ThreadPoolExecutor(4) as pool:
        together = [found.phash for found in pool.map(checked, contents)]
    assert together == [checked(content).phash for content in contents]
