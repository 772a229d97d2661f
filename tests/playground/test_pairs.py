"""Pairs of images: what a weight does, that nothing stays on the base, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evenhand.adapters.kohya import kohya_bytes
from evenhand.adapters.lora import load, scaled
from evenhand.bases.checkpoint import weights_fingerprint
from evenhand.playground.pairs import Pair, Playground
from tests.playground.made import Brightness, choices, playground, save_adapter
from tests.tiny import load_sd, sampling

PROMPT = "a portrait of a mechanic"
ROUNDING = 1  # a sum of adapters is the same up to floats' last bits, so a pixel up to one step of 256


def pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image, dtype=np.int16)


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(pixels(one) - pixels(other)).max())


def one_pair(town: Playground, weights: tuple[float, ...], *, seed: int = 3) -> Pair:
    (pair,) = town.pairs(PROMPT, [seed], weights)
    return pair


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(tiny_folder, folder / "one", seed=1),
        save_adapter(tiny_folder, folder / "two", seed=2, name="another"),
    ]


@pytest.fixture(scope="module")
def town(tiny_folder: Path, adapters: list[Path]) -> Playground:
    return playground(tiny_folder, adapters)


def test_without_weights_both_images_are_the_same_bit_for_bit(town: Playground) -> None:
    pair = one_pair(town, (0.0, 0.0))
    assert difference(pair.base.image, pair.adapted.image) == 0
    assert pair.base.readings == pair.adapted.readings


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_an_adapter_changes_the_image_and_not_the_noise(town: Playground, weights: tuple[float, ...]) -> None:
    pair = one_pair(town, weights)
    assert difference(pair.base.image, pair.adapted.image) > 5 * ROUNDING
    assert pair.base.noise_sha256 == pair.adapted.noise_sha256
    assert one_pair(town, weights, seed=4).base.noise_sha256 != pair.base.noise_sha256


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_one_adapter_is_what_loading_it_by_hand_gives(
    town: Playground, tiny_folder: Path, adapters: list[Path], weight: float
) -> None:
    base = load_sd(tiny_folder)
    load(base, adapters[1])
    with scaled(base, weight):
        (expected,) = base.generate([PROMPT], [3], sampling())
    assert difference(one_pair(town, (0.0, weight)).adapted.image, expected.image) == 0


def test_weights_add_up(tiny_folder: Path, adapters: list[Path]) -> None:
    """The same adapter twice, at 0.25 and 0.75, is that adapter once."""
    twice = playground(tiny_folder, [adapters[0], adapters[0]])
    alone, shared = one_pair(twice, (1.0, 0.0)), one_pair(twice, (0.25, 0.75))
    assert difference(alone.adapted.image, shared.adapted.image) <= ROUNDING
    assert difference(one_pair(twice, (0.25, 0.25)).adapted.image, alone.adapted.image) > 5 * ROUNDING


def test_the_base_is_as_it_was_afterwards(tiny_folder: Path, adapters: list[Path]) -> None:
    base = load_sd(tiny_folder)
    loaded = choices(tiny_folder, adapters).load()
    town = Playground(base, sampling=sampling(), adapters=dict(enumerate(loaded._contents)), readers={})  # type: ignore[arg-type]
    before = weights_fingerprint(base.unet)
    (first,) = base.generate([PROMPT], [3], sampling())
    one_pair(town, (1.0, 0.5))
    (again,) = base.generate([PROMPT], [3], sampling())
    assert weights_fingerprint(base.unet) == before
    assert not getattr(base.unet, "peft_config", None)
    assert difference(first.image, again.image) == 0


def test_an_image_does_not_depend_on_what_was_looked_at_before(tiny_folder: Path, adapters: list[Path]) -> None:
    fresh, used = playground(tiny_folder, adapters), playground(tiny_folder, adapters)
    list(used.pairs("another prompt", [3, 4], (0.5, 1.0)))
    assert difference(one_pair(fresh, (1.0, 0.0)).adapted.image, one_pair(used, (1.0, 0.0)).adapted.image) == 0


def test_a_slider_does_not_make_the_bases_images_again(tiny_folder: Path, adapters: list[Path]) -> None:
    reader = Brightness()
    town = playground(tiny_folder, adapters, readers={"one": reader})
    for weight in (0.2, 0.4, 0.6):
        one_pair(town, (weight, 0.0))
    assert reader.num_read == 1 + 3
    one_pair(town, (0.4, 0.0))
    assert reader.num_read == 1 + 3


def test_readings_are_those_of_the_reader_on_the_image(town: Playground) -> None:
    pair = one_pair(town, (1.0, 0.0))
    for seen in (pair.base, pair.adapted):
        assert list(seen.readings["halves"]) == Brightness().read([seen.image])[0]


def test_adapters_are_called_what_their_cards_call_them(tiny_folder: Path, adapters: list[Path]) -> None:
    assert playground(tiny_folder, adapters).adapter_names == ("even-handed mechanics", "another")
    twice = playground(tiny_folder, [adapters[0], adapters[0]])
    assert twice.adapter_names == ("1. even-handed mechanics", "2. even-handed mechanics")


def test_a_file_in_kohyas_layout_gets_the_same_images(tiny_folder: Path, adapters: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "exported.safetensors"
    file.write_bytes(kohya_bytes(adapters[0]))
    other = playground(tiny_folder, [file], check_base=False)
    assert other.adapter_names == ("exported",)
    expected = one_pair(playground(tiny_folder, adapters[:1]), (1.0,))
    assert difference(one_pair(other, (1.0,)).adapted.image, expected.adapted.image) <= ROUNDING


def test_without_adapters_and_readers_there_is_still_a_pair(tiny_folder: Path) -> None:
    pair = one_pair(playground(tiny_folder, [], readers={"one": None}), ())
    assert difference(pair.base.image, pair.adapted.image) == 0
    assert pair.base.readings == {}


@pytest.mark.parametrize(
    ("weights", "seeds", "message"),
    [
        ((1.0,), [0], "there are 2 adapters, got 1 weights"),
        ((1.0, float("nan")), [0], "weights must be finite"),
        ((1.0, 1.0), [-1], "a seed must be between 0 and"),
        ((1.0, 1.0), [2**63], "a seed must be between 0 and"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    town: Playground, weights: tuple[float, ...], seeds: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        town.pairs(PROMPT, seeds, weights)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("device", "tpu", "device must be one of auto, cpu, cuda, got 'tpu'"),
        ("dtype", "float8", "dtype must be one of"),
        ("num_threads", 0, "num_threads must be >= 1, got 0"),
        ("readers", {"one": Brightness(), "two": Brightness()}, "readers must have different names"),
    ],
)
def test_wrong_choices_end_before_a_model_is_loaded(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choices(tmp_path / "no model here", [], **{key: value})


def test_an_adapter_that_is_not_there_is_missed_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adapter not found: .*nowhere does not exist"):
        choices(tmp_path / "no model here", [tmp_path / "nowhere"])


def test_an_adapter_of_another_base_is_refused(tiny_epsilon_folder: Path, adapters: list[Path]) -> None:
    with pytest.raises(ValueError, match="choose the base that it was trained on"):
        playground(tiny_epsilon_folder, adapters)
    anyway = playground(tiny_epsilon_folder, adapters, check_base=False)
    pair = one_pair(anyway, (1.0, 1.0))
    assert difference(pair.base.image, pair.adapted.image) > ROUNDING
