"""Image files: checked before anything is loaded, and read as the pixels that the VAE sees.

Letters: C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.data.buckets import Bucket, Crop, crop_to_bucket

if TYPE_CHECKING:
    import torch
    from PIL import Image

PIXEL_LEVELS = 255.0
ENCODED_PIXELS = 128 * 128  # of a batch of the VAE, where none is asked for: more takes more memory than a step
EXIF_ORIENTATION = 0x0112
LYING = (5, 6, 7, 8)  # the orientations in which height and width change places


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How images become latents. ``resolution_px`` None is the base's.

    ``max_aspect`` is the widest bucket's longer side over its shorter; at 1 every image is cut to its centre square.
    An image that would be enlarged by more than ``max_enlargement`` is refused. ``encode_batch_size`` images are
    encoded at a time, None: as many as have ``ENCODED_PIXELS`` together, and one at least. ``shard_images`` is how many
    images a file of the cache holds: the most that a killed encoding loses for each process.
    """

    resolution_px: int | None
    max_aspect: float
    max_enlargement: float
    encode_batch_size: int | None
    shard_images: int

    def __post_init__(self) -> None:
        if self.resolution_px is not None and self.resolution_px < 1:
            raise ValueError(f"resolution_px must be >= 1 or null, got {self.resolution_px} (images.resolution_px)")
        if self.encode_batch_size is not None and self.encode_batch_size < 1:
            raise ValueError(
                f"encode_batch_size must be >= 1 or null, got {self.encode_batch_size} (images.encode_batch_size)"
            )
        if self.shard_images < 1:
            raise ValueError(f"shard_images must be >= 1, got {self.shard_images} (images.shard_images)")
        for name in ("max_aspect", "max_enlargement"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)} (images.{name})")

    def images_together(self, bucket: Bucket) -> int:
        """How many images of a bucket the VAE encodes at a time."""
        return self.encode_batch_size or max(1, ENCODED_PIXELS // (bucket.height_px * bucket.width_px))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image file that was opened: its bytes' hash, and its size as it is meant to be seen."""

    path: Path
    sha256: str
    height_px: int
    width_px: int


def open_images(paths: Sequence[Path]) -> tuple[ImageFile, ...]:
    """Read each file once, for its hash and its size; ValueError names one that is no image or is cut short.

    Checksums inside a file are checked (PNG has them), pixels are not decoded: that takes longer, and is done once.
    """
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(_open_image, paths))


def _open_image(path: Path) -> ImageFile:
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            width_px, height_px = opened.size[::-1] if _orientation(opened) in LYING else opened.size
            opened.verify()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's PNG reader raises SyntaxError
        raise ValueError(_unreadable(path, error)) from error
    return ImageFile(path=path, sha256=hashlib.sha256(content).hexdigest(), height_px=height_px, width_px=width_px)


def _unreadable(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # its own text names the stream that we read from
        reason = "it is of no kind that Pillow knows"
    return f"{path} cannot be read as an image: {reason} (replace the file, or remove its row)"


def _orientation(image: Image.Image) -> int:
    """How a camera was held. For PNG, which cameras do not write, asking would decode the image."""
    return 1 if image.format == "PNG" else int(image.getexif().get(EXIF_ORIENTATION, 1))


def choose_crop(image: ImageFile, buckets: Sequence[Bucket], *, max_enlargement: float) -> Crop:
    """The crop that loses least of an image; ValueError when the image is too small for it."""
    crop = crop_to_bucket(buckets, height_px=image.height_px, width_px=image.width_px)
    if crop.enlargement > max_enlargement:
        raise ValueError(
            f"{image.path} is {image.width_px}x{image.height_px} px and would be enlarged {crop.enlargement:.3g} times "
            f"to {crop.bucket} px, more than images.max_enlargement={max_enlargement:g} allows: "
            "remove it, or lower images.resolution_px"
        )
    return crop


def load_pixels(path: Path, crop: Crop) -> torch.Tensor:
    """A crop of an image at its bucket's size, CHW in [-1, 1]; ValueError names a file that is no image."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            upright = opened if _orientation(opened) == 1 else ImageOps.exif_transpose(opened)
            image = upright.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_unreadable(path, error)) from error
    right, bottom = crop.left_px + crop.width_px, crop.top_px + crop.height_px
    image = image.crop((crop.left_px, crop.top_px, right, bottom))
    size = (crop.bucket.width_px, crop.bucket.height_px)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    levels_HWC = torch.from_numpy(np.array(image, dtype=np.float32))
    return (levels_HWC / PIXEL_LEVELS * 2.0 - 1.0).permute(2, 0, 1).contiguous()
