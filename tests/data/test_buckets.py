from __future__ import annotations

import itertools

import pytest

from evenhand.data.buckets import Bucket, crop_to_bucket, make_buckets

SD_512 = {(704, 384), (640, 384), (576, 448), (512, 512), (448, 576), (384, 640), (384, 704)}  # by hand: width, height


def sizes(buckets) -> set[tuple[int, int]]:
    return {(bucket.width_px, bucket.height_px) for bucket in buckets}


def test_the_buckets_of_sd_at_512_are_those_worked_out_by_hand() -> None:
    assert sizes(make_buckets(512, step_px=64, max_aspect=2.0)) == SD_512


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (768, 64), (1024, 32), (1024, 64), (64, 8)])
@pytest.mark.parametrize("max_aspect", [1.3, 2.0, 3.0])
def test_sides_are_multiples_of_the_step_and_the_number_of_pixels_hardly_changes(resolution, step, max_aspect) -> None:
    buckets = make_buckets(resolution, step_px=step, max_aspect=max_aspect)
    assert (resolution, resolution) in sizes(buckets)
    assert sizes(buckets) == {(height, width) for width, height in sizes(buckets)}  # as many lying as standing
    for width, height in sizes(buckets):
        assert width % step == height % step == 0
        assert max(width, height) / min(width, height) <= max_aspect
        # no neighbour on the grid of the same shorter or longer side is much nearer to the square's pixels
        assert abs(width * height - resolution**2) <= step / 2 * max(width, height)


def test_without_buckets_there_is_the_square_alone_at_any_resolution() -> None:
    for resolution in (512, 500):
        assert sizes(make_buckets(resolution, step_px=64, max_aspect=1.0)) == {(resolution, resolution)}


def test_a_resolution_between_two_steps_is_refused_where_buckets_are_wanted() -> None:
    with pytest.raises(ValueError, match=r"images.resolution_px=500 must be a multiple of 64 px .* take 512"):
        make_buckets(500, step_px=64, max_aspect=2.0)


def kept_share(width: int, height: int, bucket: Bucket) -> float:
    """The share of an image's pixels inside the largest centred rectangle of a bucket's form."""
    form = bucket.width_px / bucket.height_px
    return min(height * form, width) * min(width / form, height) / (width * height)


def test_of_all_buckets_the_one_is_taken_that_loses_least_and_the_crop_is_its_largest_rectangle() -> None:
    buckets = make_buckets(512, step_px=64, max_aspect=2.0)
    for width, height in itertools.product((300, 512, 640, 701, 1024, 3000), repeat=2):
        crop = crop_to_bucket(buckets, height_px=height, width_px=width)
        best = max(kept_share(width, height, bucket) for bucket in buckets)
        assert kept_share(width, height, crop.bucket) == pytest.approx(best)
        assert crop.width_px * crop.height_px / (width * height) == pytest.approx(best, abs=0.003)
        assert 0 <= crop.left_px <= crop.left_px + crop.width_px <= width
        assert 0 <= crop.top_px <= crop.top_px + crop.height_px <= height
        assert abs(2 * crop.left_px + crop.width_px - width) <= 1  # in the middle
        assert abs(2 * crop.top_px + crop.height_px - height) <= 1


def test_an_image_of_a_buckets_own_form_loses_nothing() -> None:
    buckets = make_buckets(512, step_px=64, max_aspect=2.0)
    crop = crop_to_bucket(buckets, height_px=2 * 448, width_px=2 * 576)
    assert (crop.top_px, crop.left_px, crop.height_px, crop.width_px) == (0, 0, 896, 1152)
    assert (str(crop.bucket), crop.enlargement) == ("576x448", 0.5)


def test_a_square_bucket_takes_the_centre_square() -> None:
    crop = crop_to_bucket(make_buckets(512, step_px=64, max_aspect=1.0), height_px=600, width_px=1001)
    assert (crop.top_px, crop.left_px, crop.height_px, crop.width_px) == (0, 200, 600, 600)


def test_what_sdxl_is_told_of_a_crop_is_in_the_pixels_that_its_paper_says() -> None:
    """Original size before resizing; the corner of the crop after it (512/600 of 200 px is 171); the final size."""
    crop = crop_to_bucket(make_buckets(512, step_px=64, max_aspect=1.0), height_px=600, width_px=1001)
    assert crop.size_6(height_px=600, width_px=1001) == (600, 1001, 0, 171, 512, 512)
    whole = crop_to_bucket(make_buckets(512, step_px=64, max_aspect=1.0), height_px=512, width_px=512)
    assert whole.size_6(height_px=512, width_px=512) == (512, 512, 0, 0, 512, 512)
