from __future__ import annotations

import pytest
import torch
from PIL import Image

from evenhand.readers.planted import Planted

COLORS = {"presentation": {"woman": (200, 60, 60), "man": (60, 60, 200)}}


def values(*, confusion: float = 0.0, abstain: float = 0.0, count: int = 600) -> list[str | None]:
    """What is read of ``count`` different images of a woman."""
    reader = Planted(name="p", colors=COLORS, max_distance=60.0, confusion=confusion, abstain=abstain, seed=1)
    images = []
    for index in range(count):
        image = Image.new("RGB", (8, 8), (200, 60, 60))
        image.putpixel((0, 0), (200, index % 256, index // 256))
        images.append(image)
    subjects = reader.load(device=torch.device("cpu")).read(images)
    return [reading.value for (reading,) in subjects]


def test_without_errors_what_was_planted_is_read() -> None:
    assert set(values(count=20)) == {"woman"}


def test_confusion_and_abstention_come_at_their_rates() -> None:
    confused, silent = values(confusion=0.2), values(abstain=0.3)
    assert confused.count("man") / 600 == pytest.approx(0.2, abs=0.05)
    assert silent.count(None) / 600 == pytest.approx(0.3, abs=0.06)
    assert "man" not in silent


def test_what_was_not_planted_has_a_reason() -> None:
    reader = Planted(name="p", colors=COLORS, max_distance=60.0, confusion=0.0, abstain=0.0, seed=1)
    ((reading,),) = reader.load(device=torch.device("cpu")).read([Image.new("RGB", (8, 8), (60, 200, 60))])
    assert reading.value is None
    assert reading.unread is not None
    assert "no planted colour" in reading.unread


def test_chances_are_checked() -> None:
    with pytest.raises(ValueError, match="confusion must be between 0 and 1, got 1.5"):
        Planted(name="p", colors=COLORS, max_distance=60.0, confusion=1.5, abstain=0.0, seed=1)
