"""Pictures on their way to the disk: in order, behind the next ones, and never half of one."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from evenhand.recipes.pictures import Made, PictureWriter, check_room, full_disk_said


def picture(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


def test_a_batch_is_given_on_when_its_pictures_are_on_the_disk_and_noted_and_at_most_one_waits(tmp_path: Path) -> None:
    noted: list[int] = []
    made: list[int] = []

    def batches() -> Iterator[Made[int]]:
        for number in range(5):
            made.append(number)
            images = {f"train/{number}-{each}.png": picture(10 * number + each) for each in range(3)}
            yield Made(item=number, images=images, then=lambda number=number: noted.append(number))

    with PictureWriter(tmp_path) as writer:
        for number in writer.behind(batches()):
            assert noted[: number + 1] == list(range(number + 1))
            assert len(made) <= number + 2
            for each in range(3):
                with Image.open(tmp_path / f"train/{number}-{each}.png") as image:
                    assert image.getpixel((0, 0)) == (10 * number + each,) * 3
    assert noted == made == list(range(5))


def test_a_batch_that_cannot_be_written_is_not_noted_and_its_error_is_raised(tmp_path: Path) -> None:
    noted: list[str] = []
    (tmp_path / "train").write_text("a file where a folder should be")
    batches = [Made(item=0, images={"train/0.png": picture(0)}, then=lambda: noted.append("noted"))]
    with PictureWriter(tmp_path) as writer, pytest.raises(OSError, match="train"):
        list(writer.behind(iter(batches)))
    assert noted == []


def test_who_leaves_early_leaves_no_thread_and_no_half_picture(tmp_path: Path) -> None:
    before = threading.active_count()
    batches = (Made(item=n, images={f"{n}.png": picture(n)}, then=lambda: None) for n in range(100))
    with PictureWriter(tmp_path) as writer:
        for number in writer.behind(batches):
            if number == 2:
                break
    assert threading.active_count() == before
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            image.load()


def test_a_full_disk_ends_in_one_sentence_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    batches = [Made(item=0, images={"0.png": picture(0)}, then=lambda: None)]
    problem = "No space left on device; make room, and the same command goes on"
    with pytest.raises(ValueError, match=problem), full_disk_said(tmp_path), PictureWriter(tmp_path) as writer:
        list(writer.behind(iter(batches)))
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), full_disk_said(tmp_path):
        (tmp_path / "not there").read_bytes()


def test_room_is_asked_for_the_pictures_that_are_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 1,000 by 1,000 px is reckoned at 1.8 MB, and 5 MB are free: room for two."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**7, 5 * 10**6, 5 * 10**6))
    check_room(tmp_path / "set", num_images=2, num_pixels=10**6)
    with pytest.raises(
        ValueError, match=r"needs about 5 MB for 3 images of about 1\.800 MB, but its disk has 5 MB free"
    ):
        check_room(tmp_path / "set", num_images=3, num_pixels=10**6)
    assert not (tmp_path / "set").exists()
    (tmp_path / "set" / "train").mkdir(parents=True)
    picture(1).save(tmp_path / "set" / "train" / "000000.png")
    check_room(tmp_path / "set", num_images=3, num_pixels=10**6)
