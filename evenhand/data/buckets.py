"""Aspect-ratio buckets: the sizes that images are cut to, so that little is cut away and a batch has one shape.

A bucket's sides are multiples of ``step_px``, which VAE and UNet can halve as often as they do, and its number of
pixels is as near to the square's as such sides allow, so that all buckets cost the same. Where the widest aspect
allowed is 1, the only bucket is the square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Bucket:
    """A size that images are cut to."""

    height_px: int
    width_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of an image, in the image's own pixels, and the bucket that it is resized to."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int
    bucket: Bucket

    @property
    def enlargement(self) -> float:
        """How many pixels are made of one along a side; below 1 the image is shrunk."""
        return max(self.bucket.height_px / self.height_px, self.bucket.width_px / self.width_px)

    def size_6(self, *, height_px: int, width_px: int) -> tuple[int, ...]:
        """What SDXL is told of the crop of an image of this size (section 2.2 of the SDXL paper).

        Height and width of the original, top and left of the crop after resizing, height and width of the result.
        """
        scale = self.bucket.height_px / self.height_px
        top, left = round(self.top_px * scale), round(self.left_px * scale)
        return height_px, width_px, top, left, self.bucket.height_px, self.bucket.width_px


@lru_cache(maxsize=8)
def make_buckets(resolution_px: int, *, step_px: int, max_aspect: float) -> tuple[Bucket, ...]:
    """The buckets of about ``resolution_px`` squared pixels whose longer side is at most ``max_aspect`` shorter ones.

    Raises ValueError where buckets are wanted and the square's own side is no multiple of ``step_px``.
    """
    if max_aspect == 1:
        return (Bucket(height_px=resolution_px, width_px=resolution_px),)
    if resolution_px % step_px:
        raise ValueError(
            f"images.resolution_px={resolution_px} must be a multiple of {step_px} px for buckets of this base: "
            f"take {max(1, round(resolution_px / step_px)) * step_px}, or images.max_aspect=1 for squares only"
        )
    found = set()
    for side_px in range(step_px, math.floor(resolution_px * max_aspect) + 1, step_px):
        other_px = max(1, round(resolution_px**2 / side_px / step_px)) * step_px
        if max(side_px, other_px) <= max_aspect * min(side_px, other_px):
            found |= {Bucket(height_px=side_px, width_px=other_px), Bucket(height_px=other_px, width_px=side_px)}
    return tuple(sorted(found))


def crop_to_bucket(buckets: Sequence[Bucket], *, height_px: int, width_px: int) -> Crop:
    """The centre crop of an image that loses least of it, over all buckets; the first of several that lose the same."""
    image_aspect = math.log(width_px / height_px)
    bucket = min(buckets, key=lambda each: abs(image_aspect - math.log(each.width_px / each.height_px)))
    # compared as whole numbers, so that no rounding makes a crop wider than its image
    too_wide = width_px * bucket.height_px > height_px * bucket.width_px
    crop_width = max(1, round(height_px * bucket.width_px / bucket.height_px)) if too_wide else width_px
    crop_height = height_px if too_wide else max(1, round(width_px * bucket.height_px / bucket.width_px))
    return Crop(
        top_px=(height_px - crop_height) // 2,
        left_px=(width_px - crop_width) // 2,
        height_px=crop_height,
        width_px=crop_width,
        bucket=bucket,
    )
