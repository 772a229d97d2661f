"""The reading stage, with the planted oracle on images that the test paints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.evaluation.folder import image_path, load_images, load_readings, load_similarities
from evenhand.evaluation.plan import Dose, GenerationPlan, Plan, Sequential, parse_plan
from evenhand.evaluation.reading import PARTIAL_FILE, compare_unrelated, pixel_similarity, read_images
from evenhand.files import sha256_file, write_jsonl_atomic
from evenhand.interfaces import LoadedReader
from evenhand.readers.planted import Planted
from evenhand.records import ImageRecord, SubjectReading
from tests.folders import ARMS, plan_row, prompt_row

COLORS = {"woman": (200, 60, 60), "man": (60, 60, 200)}
PROMPTS = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse"), prompt_row("unrelated", "car")]
NUM_SEEDS = 3


def oracle() -> LoadedReader:
    reader = Planted(
        name="planted", colors={"presentation": COLORS}, max_distance=60.0, confusion=0.0, abstain=0.0, seed=0
    )
    return reader.load(device=torch.device("cpu"))


def painted(folder: Path) -> Plan:
    """Mechanics are men in base and women when adapted, nurses women; cars are grey, one step lighter when adapted."""
    fields = ["base", "base_fingerprint", "encoders_fingerprint", "adapter_sha256"]
    generation = GenerationPlan(
        seeds={row["id"]: tuple(range(NUM_SEEDS)) for row in PROMPTS},
        batch_size=2,
        steps=1,
        guidance=1.0,
        height_px=8,
        width_px=8,
        dtype="float32",
        device="cpu",
        adapter_scale=1.0,
        **dict.fromkeys(fields, "x"),
    )
    plan = replace(parse_plan(plan_row(PROMPTS), "test"), generation=generation)
    records = []
    for arm in ARMS:
        for row in PROMPTS:
            for seed in range(NUM_SEEDS):
                path = folder / image_path(arm, row["id"], seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                _paint(row["concept"], arm, seed).save(path)
                digest = sha256_file(path)
                relative = path.relative_to(folder).as_posix()
                records.append(
                    ImageRecord(prompt_id=row["id"], seed=seed, arm=arm, path=relative, sha256=digest, noise_sha256="n")
                )
    write_jsonl_atomic(folder / "images.jsonl", records)
    return plan


def _paint(concept: str, arm: str, seed: int) -> Image.Image:
    if concept == "car":
        return Image.new("RGB", (8, 8), (90 + 10 * seed + (arm == "adapted"),) * 3)
    value = "man" if (concept, arm) == ("mechanic", "base") else "woman"
    red, green, blue = COLORS[value]
    return Image.new("RGB", (8, 8), (red + seed, green, blue))


class Dying:
    """A reader that is killed at its ``after``-th batch."""

    def __init__(self, after: int) -> None:
        self._left = after

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return oracle().read(images)


def test_every_image_is_read_and_a_car_is_nobody(tmp_path: Path) -> None:
    plan = painted(tmp_path)
    assert read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4) == 18
    readings = load_readings(tmp_path)
    counts = Counter((reading.prompt_id, reading.arm, reading.value) for reading in readings)
    assert counts == {
        ("heldout-mechanic-00", "base", "man"): 3,
        ("heldout-mechanic-00", "adapted", "woman"): 3,
        ("heldout-nurse-00", "base", "woman"): 3,
        ("heldout-nurse-00", "adapted", "woman"): 3,
        ("unrelated-car-00", "base", None): 3,
        ("unrelated-car-00", "adapted", None): 3,
    }
    assert {reading.unread is None for reading in readings if reading.value is None} == {False}
    assert read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4) == 0


@pytest.mark.parametrize("torn_bytes", [0, 20, 200])
def test_a_killed_reading_goes_on_to_the_same_bytes(tmp_path: Path, torn_bytes: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    read_images(painted(whole), whole, oracle(), reader_name="planted", batch_size=4)
    plan = painted(killed)
    with pytest.raises(KeyboardInterrupt):
        read_images(plan, killed, Dying(2), reader_name="planted", batch_size=4)
    assert not (killed / "readings.jsonl").exists()
    partial = killed / PARTIAL_FILE.format(reader="planted")
    partial.write_bytes(partial.read_bytes()[: -torn_bytes or None])
    # The last batch that was begun is read again, whatever is left of it; the first is not.
    assert read_images(plan, killed, oracle(), reader_name="planted", batch_size=4) == 14
    assert (killed / "readings.jsonl").read_bytes() == (whole / "readings.jsonl").read_bytes()
    assert not partial.exists()


def test_a_reading_that_is_killed_again_and_again_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Each kill tears the last batch: of four images, and of the single one that ends an arm."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    read_images(painted(whole), whole, oracle(), reader_name="planted", batch_size=4)
    plan = painted(killed)
    partial = killed / PARTIAL_FILE.format(reader="planted")
    for num_batches in (1, 2, 2, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            read_images(plan, killed, Dying(num_batches), reader_name="planted", batch_size=4)
        partial.write_bytes(partial.read_bytes()[:-30])
    read_images(plan, killed, oracle(), reader_name="planted", batch_size=4)
    assert (killed / "readings.jsonl").read_bytes() == (whole / "readings.jsonl").read_bytes()


def another_reader() -> LoadedReader:
    """Takes every woman for a man and every man for a woman."""
    colors = {"presentation": {"woman": COLORS["man"], "man": COLORS["woman"]}}
    reader = Planted(name="another", colors=colors, max_distance=60.0, confusion=0.0, abstain=0.0, seed=0)
    return reader.load(device=torch.device("cpu"))


def test_a_further_reader_adds_its_lines_and_leaves_those_of_others(tmp_path: Path) -> None:
    plan = replace(painted(tmp_path), reader="planted")
    read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4)
    before = (tmp_path / "readings.jsonl").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        read_images(plan, tmp_path, Dying(2), reader_name="another", batch_size=4)
    assert (tmp_path / "readings.jsonl").read_bytes() == before
    assert read_images(plan, tmp_path, another_reader(), reader_name="another", batch_size=4) == 14
    lines = (tmp_path / "readings.jsonl").read_bytes()
    assert lines.startswith(before)  # the plan's reader stands first
    readings = load_readings(tmp_path)
    assert Counter(reading.reader for reading in readings) == {"planted": 18, "another": 18}
    values = {(r.reader, r.arm, r.prompt_id, r.seed): r.value for r in readings}
    assert values["planted", "base", "heldout-mechanic-00", 0] == "man"
    assert values["another", "adapted", "heldout-nurse-00", 0] == "man"
    for name, reader in (("planted", oracle()), ("another", another_reader())):
        assert read_images(plan, tmp_path, reader, reader_name=name, batch_size=4) == 0
    assert (tmp_path / "readings.jsonl").read_bytes() == lines


def test_the_order_of_reading_does_not_show_in_the_file(tmp_path: Path) -> None:
    for name, order in (("one", ("planted", "another")), ("other", ("another", "planted"))):
        plan = replace(painted(tmp_path / name), reader="planted", second_readers=("another",))
        for reader_name in order:
            reader = oracle() if reader_name == "planted" else another_reader()
            read_images(plan, tmp_path / name, reader, reader_name=reader_name, batch_size=4)
    assert (tmp_path / "one" / "readings.jsonl").read_bytes() == (tmp_path / "other" / "readings.jsonl").read_bytes()


def test_rounds_are_read_one_after_the_other_to_the_bytes_of_all_at_once(tmp_path: Path) -> None:
    plans = [replace(painted(tmp_path / name), sequential=Sequential()) for name in ("at once", "in rounds")]
    read_images(plans[0], tmp_path / "at once", oracle(), reader_name="planted", batch_size=2)
    folder = tmp_path / "in rounds"
    assert [
        read_images(plans[1], folder, oracle(), reader_name="planted", batch_size=2, num_rounds=num_rounds)
        for num_rounds in (None, None)
    ] == [18, 0]
    assert (folder / "readings.jsonl").read_bytes() == (tmp_path / "at once" / "readings.jsonl").read_bytes()
    # Only the first round has images: the others are not missed until they are asked for.
    images = [record for record in load_images(folder).values() if record.seed == 0]
    write_jsonl_atomic(folder / "images.jsonl", images)
    (folder / "readings.jsonl").unlink()
    assert read_images(plans[1], folder, oracle(), reader_name="planted", batch_size=2, num_rounds=1) == 6
    assert {reading.seed for reading in load_readings(folder)} == {0}
    with pytest.raises(ValueError, match="6 images are missing"):
        read_images(plans[1], folder, oracle(), reader_name="planted", batch_size=2, num_rounds=2)
    assert {row.seed for row in compare_unrelated(plans[1], folder, num_rounds=1)} == {0}


def test_images_of_another_tool_are_read_as_they_are_listed(tmp_path: Path) -> None:
    """Its plan says nothing of generation, and one car is there in one arm only."""
    whole = painted(tmp_path)
    records = load_images(tmp_path)
    del records["adapted", "unrelated-car-00", 2]
    write_jsonl_atomic(tmp_path / "images.jsonl", records.values())
    plan = replace(whole, generation=None)
    assert read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4) == 17
    assert [(r.arm, r.prompt_id, r.seed) for r in load_readings(tmp_path)] == list(records)
    assert {row.seed for row in compare_unrelated(plan, tmp_path)} == {0, 1}


def test_dose_arms_are_read_after_the_pair(tmp_path: Path) -> None:
    plan = replace(painted(tmp_path), dose=Dose(scales=(0.5,), num_seeds=1))
    read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4, arms=plan.arms)
    with pytest.raises(ValueError, match="2 images are missing, the first is .'adapted@0.5'"):
        read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4)
    records = dict(load_images(tmp_path))
    doses = [
        replace(records["adapted", row["id"], 0], arm="adapted@0.5") for row in PROMPTS if row["suite"] == "heldout"
    ]
    write_jsonl_atomic(tmp_path / "images.jsonl", [*records.values(), *doses])
    assert read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4) == 2
    assert [reading.arm for reading in load_readings(tmp_path)][-2:] == ["adapted@0.5", "adapted@0.5"]


def test_an_image_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    plan = painted(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / image_path("base", "heldout-nurse-00", 1))
    with pytest.raises(ValueError, match="is not the image that was generated"):
        read_images(plan, tmp_path, oracle(), reader_name="planted", batch_size=4)


def test_similarity_by_hand() -> None:
    """Half of the pixels differ by 51 of 255, which is 0.2: one minus sqrt(0.5 * 0.04)."""
    one = Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8))
    half = np.zeros((2, 2, 3), dtype=np.uint8)
    half[0] = 51
    assert pixel_similarity(one, one) == 1.0
    assert pixel_similarity(one, Image.fromarray(half)) == pytest.approx(1 - (0.5 * 0.04) ** 0.5)


def test_only_unrelated_pairs_are_compared_with_a_yardstick(tmp_path: Path) -> None:
    """Cars differ by one step of 255 between the arms, and by 10 or 20 steps between seeds of the base."""
    rows = compare_unrelated(painted(tmp_path), tmp_path)
    assert {row.prompt_id for row in rows} == {"unrelated-car-00"}
    assert [row.value for row in rows] == pytest.approx([1 - 1 / 255] * 3)
    assert [row.yardstick for row in rows] == pytest.approx([1 - 20 / 255, 1 - 10 / 255, 1 - 10 / 255])
    assert load_similarities(tmp_path) == rows
