from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evenhand.files import atomic_path, read_jsonl
from evenhand.recipes.curated_set import Origin, place_again, save_image, write_metadata
from evenhand.records import Example


def row(file_name: str) -> Example:
    return Example(
        file_name=file_name, text="x", concept="c", labels={}, template="t", source="s", seed=1, license="cc0-1.0"
    )


def test_each_part_gets_its_own_sorted_rows(tmp_path: Path) -> None:
    write_metadata(tmp_path, [row("train/000002.png"), row("preserve/000000.png"), row("train/000001.png")])
    assert [entry["file_name"] for entry in read_jsonl(tmp_path / "train" / "metadata.jsonl")] == [
        "000001.png",
        "000002.png",
    ]
    assert [entry["file_name"] for entry in read_jsonl(tmp_path / "preserve" / "metadata.jsonl")] == ["000000.png"]


def test_what_a_kill_left_half_written_is_no_part_of_the_set(tmp_path: Path) -> None:
    for part in ("train", "preserve"):
        with atomic_path(tmp_path / part / "000000.png") as temporary:
            temporary.write_bytes(b"whole")
        temporary.write_bytes(b"half of it")  # what a kill inside the block would have left
    write_metadata(tmp_path, [row("train/000000.png"), row("preserve/000000.png")])
    for part in ("train", "preserve"):
        assert sorted(path.name for path in (tmp_path / part).iterdir()) == ["000000.png", "metadata.jsonl"]


@pytest.mark.parametrize("can_link", [True, False])
def test_an_image_is_placed_again_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_image(Image.fromarray(pixels), tmp_path / "train" / "000000.png")
    for _ in range(2):  # the second time it is there already
        place_again(tmp_path, "train/000000.png", "preserve/000000.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "preserve" / "000000.png")), pixels)
    assert (tmp_path / "preserve" / "000000.png").samefile(tmp_path / "train" / "000000.png") is can_link
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["000000.png", "000000.png"]


def test_a_set_without_a_licence_is_refused() -> None:
    with pytest.raises(ValueError, match="name the licence"):
        Origin(source="self:x", confirmed_by=None, license="")
