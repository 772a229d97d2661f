"""What a calibration makes of what it sees: its formula, where it leads, and what it does not count."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from evenhand.records import SubjectReading
from tests.rank_threads import on_ranks
from tests.tilted_world import Alone, Lines, Tilted, World, cell, choice, loaded, planted, rows

WOMAN, MAN = cell(presentation="woman"), cell(presentation="man")
LIGHT, MEDIUM, DARK = (cell(skin=value) for value in ("light", "medium", "dark"))
EVEN = rows("mechanic", {WOMAN: 6, MAN: 6}) + rows("nurse", {WOMAN: 4, MAN: 4})
UNEVEN = rows("mechanic", {LIGHT: 12, MEDIUM: 5, DARK: 3})  # 60/25/15
JOINT = [cell(presentation=who, skin=skin) for who in ("woman", "man") for skin in ("light", "medium", "dark")]


class Scripted:
    """Shows these cells one after the other, again and again."""

    def __init__(self, *shown) -> None:
        self.shown = shown
        self.number = 0

    def __call__(self, caption: str, seed: int):
        self.number += 1
        return self.shown[(self.number - 1) % len(self.shown)]


def weights(calibration) -> dict:
    return dict(zip(calibration.cells, calibration.weights_K.tolist(), strict=True))


def test_the_weights_are_those_of_the_formula_computed_by_products_and_powers() -> None:
    """Gains 1/2, 1/2, ..., 2/5, without logarithms: w <- w (wanted / seen)^gain, over their mean."""
    calibration, _ = loaded(Scripted(*[LIGHT] * 11, *[MEDIUM] * 5, *[DARK] * 4), UNEVEN, num_images=20)
    wanted = {LIGHT: 0.6, MEDIUM: 0.25, DARK: 0.15}
    seen = {key: (count + wanted[key]) / 21 for key, count in {LIGHT: 11, MEDIUM: 5, DARK: 4}.items()}
    by_hand = dict.fromkeys(wanted, 1.0)
    for number, gain in enumerate((0.5, 0.5, 0.5, 0.5, 0.4, 1 / 3), start=1):
        calibration.look(number)
        by_hand = {key: by_hand[key] * (wanted[key] / seen[key]) ** gain for key in wanted}
        mean = sum(wanted[key] * by_hand[key] for key in wanted)
        by_hand = {key: value / mean for key, value in by_hand.items()}
        assert weights(calibration) == pytest.approx(by_hand, rel=1e-12)
    assert weights(calibration)[LIGHT] > 1.1  # something was there to be corrected


def test_rows_get_the_weight_of_their_values_in_float32() -> None:
    calibration, _ = loaded(Scripted(WOMAN, MAN, MAN), EVEN)
    before = calibration.weights_B([{"presentation": "man"}, {"presentation": "woman"}])
    calibration.look(2)
    after = calibration.weights_B([{"presentation": "man"}, {"presentation": "woman"}, {"presentation": "man"}])
    assert before.tolist() == [1.0, 1.0]
    assert after.dtype == torch.float32
    assert after.tolist() == pytest.approx([weights(calibration)[each] for each in (MAN, WOMAN, MAN)], rel=1e-6)
    assert after[1] > 1 > after[0]


TILTS = {
    "30 % women": (EVEN, {WOMAN: math.log(3 / 7)}),
    "60/25/15": (UNEVEN, {DARK: -1.0, MEDIUM: 0.4}),
    "joint": (rows("mechanic", dict.fromkeys(JOINT, 2)), {JOINT[0]: -1.0, JOINT[3]: 0.5, JOINT[5]: -0.5}),
    "concepts of their own shares": (
        rows("mechanic", {WOMAN: 8, MAN: 2}) + rows("nurse", {WOMAN: 3, MAN: 9}) + rows("cook", {WOMAN: 5, MAN: 5}),
        {WOMAN: -0.9},
    ),
}


@pytest.mark.parametrize("answer", [1.0, 0.4], ids=["at once", "late"])
@pytest.mark.parametrize("name", TILTS)
def test_a_tilt_is_led_back_to_each_concepts_shares_within_noise_also_where_pictures_answer_late(name, answer) -> None:
    examples, tilt = TILTS[name]
    shows = Tilted(examples, tilt, answer=answer)
    calibration, _ = loaded(shows, examples, num_images=144, reader=planted(only=[key for key, _ in next(iter(tilt))]))
    before = {concept: np.abs(shows.shares(concept) - own).max() for concept, own in shows.own.items()}
    for step in range(14):
        calibration.look(step)
        shows.learn(calibration.weights_K)
    assert max(before.values()) > 0.1
    for concept, own in shows.own.items():
        assert np.abs(shows.shares(concept) - own).max() < 0.045, concept


def test_what_the_first_looks_saw_of_an_adapter_that_had_learned_little_is_forgotten() -> None:
    """5 % women in the first two looks, and no tilt from then on. A plain mean over the looks (1/n) ends 0.08 off."""
    shows = Tilted(EVEN, {WOMAN: -3.0}, answer=0.5)
    calibration, _ = loaded(shows, EVEN, num_images=144, reader=planted(only=["presentation"]))
    seen = []
    for step in range(12):
        if step == 2:
            shows.tilt_K = np.zeros(2)
        calibration.look(step)
        shows.learn(calibration.weights_K)
        seen.append(shows.shares("nurse")[0])
    assert max(abs(share - 0.5) for share in seen) > 0.15
    assert seen[-1] == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("name", TILTS)
def test_where_nothing_tilts_the_weights_stay_near_one(name) -> None:
    examples, tilt = TILTS[name]
    shows = Tilted(examples, {}, answer=0.4)
    calibration, _ = loaded(shows, examples, num_images=144, reader=planted(only=[key for key, _ in next(iter(tilt))]))
    for step in range(14):
        calibration.look(step)
        shows.learn(calibration.weights_K)
    assert calibration.weights_K == pytest.approx(np.ones(len(shows.cells)), abs=0.3)
    for concept, own in shows.own.items():
        assert np.abs(shows.shares(concept) - own).max() < 0.045


@pytest.mark.parametrize(
    ("examples", "shown", "wanted"),
    [
        (EVEN, MAN, {WOMAN: 1.75, MAN: 0.25}),  # the mean of 1/4 and 7/4 is 1
        (rows("cook", {LIGHT: 9, MEDIUM: 9, DARK: 2}), None, {LIGHT: 2 / 3, MEDIUM: 2 / 3, DARK: 4.0}),
    ],
)
def test_a_value_that_is_never_shown_gets_a_bounded_weight_and_the_mean_stays_one(examples, shown, wanted) -> None:
    calibration, _ = loaded(Scripted(shown) if shown else Scripted(LIGHT, MEDIUM), examples)
    for step in range(30):
        calibration.look(step)
    assert weights(calibration) == pytest.approx(wanted, rel=1e-9)


def test_a_cell_that_no_pictured_concept_has_keeps_its_weight_beside_the_others() -> None:
    """Every picture of a look is of the first concept: the second one's values are neither wanted nor seen."""
    examples = rows("mechanic", {LIGHT: 99, MEDIUM: 99}) + rows("nurse", {MEDIUM: 1, DARK: 1})
    calibration, world = loaded(Scripted(LIGHT), examples, num_images=1)
    calibration.look(0)
    assert [caption for caption, _ in world.made] == ["mechanic"]
    found = weights(calibration)
    assert all(math.isfinite(value) for value in found.values())
    assert found[LIGHT] < found[DARK] < found[MEDIUM]
    assert sum(found[next(iter(e.labels.items())),] for e in examples) / len(examples) == pytest.approx(1.0)


def test_unread_pictures_are_left_out_of_what_is_wanted_too() -> None:
    """Of mechanics, 90 % women, nothing is read; nurses come half and half, as wanted. A mean over all would tilt."""
    examples = rows("mechanic", {WOMAN: 9, MAN: 1}) + rows("nurse", {WOMAN: 10, MAN: 10})
    turns = Scripted(WOMAN, MAN)
    tracker = Lines()
    calibration, _ = loaded(lambda text, seed: None if text == "mechanic" else turns(text, seed), examples, tracker)
    calibration.look(2)
    assert weights(calibration) == pytest.approx({WOMAN: 1.0, MAN: 1.0}, abs=1e-12)
    assert tracker.lines[0][1]["calibration/unread"] == pytest.approx(1 / 3, abs=0.02)
    tilted, _ = loaded(lambda text, seed: WOMAN if text == "mechanic" else turns(text, seed), examples)
    tilted.look(2)
    assert weights(tilted)[MAN] > 1.01  # read, they count


@pytest.mark.parametrize(("nobody", "changes"), [(6, False), (5, True)], ids=["too few", "enough"])
def test_where_too_little_is_read_a_warning_says_so_and_the_weights_stay(caplog, nobody, changes) -> None:
    calibration, _ = loaded(Scripted(*[None] * nobody, *[MAN] * (10 - nobody)), EVEN, tracker := Lines(), num_images=10)
    with caplog.at_level(logging.INFO):
        calibration.look(4)
    assert (weights(calibration)[WOMAN] > 1) == changes
    assert calibration.state()["num_looks"] == int(changes)
    assert ("nothing was read of 6 of 10 pictures, so weights stay as they are" in caplog.text) != changes
    assert tracker.lines[0][1]["calibration/unread"] == nobody / 10
    assert ("calibration/weight/woman" in tracker.lines[0][1]) == changes


class Crowd:
    """Reads three people in every picture: two as it is painted, with one value more unread for the last of them."""

    name, revision, license, validated_on = "crowd", None, "Apache-2.0", "nothing"

    def __init__(self) -> None:
        self.attributes = planted().attributes

    def load(self, *, device: torch.device) -> Crowd:
        self.one = planted().load(device=device)
        return self

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        found = []
        for readings in self.one.read(images):
            people = [(subject, each) for subject in range(3) for each in readings]
            found.append(
                [_of(subject, each, hide=subject == 2 and each.attribute == "skin") for subject, each in people]
            )
        return found


def _of(subject: int, reading: SubjectReading, *, hide: bool) -> SubjectReading:
    value, probs, unread = (None, None, "hidden") if hide else (reading.value, reading.probs, reading.unread)
    return SubjectReading(subject=subject, attribute=reading.attribute, value=value, probs=probs, unread=unread)


def test_every_person_of_a_group_counts_and_those_that_are_not_wholly_read_do_not() -> None:
    """Two whole people in each of 12 pictures: the smoothing of one more picture is that of 25, not of 13 or 37."""
    examples = rows("team", dict.fromkeys(JOINT, 2))
    calibration, _ = loaded(Scripted(JOINT[0], *JOINT[:5]), examples, reader=Crowd(), num_images=12)
    calibration.look(2)
    seen = {each: (2 * count + 1 / 6) / 25 for each, count in zip(JOINT, (4, 2, 2, 2, 2, 0), strict=True)}
    raw = {each: (1 / 6 / share) ** 0.5 for each, share in seen.items()}
    mean = sum(raw.values()) / 6
    assert weights(calibration) == pytest.approx({each: value / mean for each, value in raw.items()}, rel=1e-9)
    alone, _ = loaded(
        Scripted(cell(presentation="woman")), EVEN, reader=Crowd(), num_images=12, tracker=(told := Lines())
    )
    alone.look(2)  # of one attribute all three are whole
    assert told.lines[0][1]["calibration/unread"] == 0.0
    ratio = (0.5 / ((36 + 0.5) / 37)) ** 0.5 / (0.5 / (0.5 / 37)) ** 0.5
    assert weights(alone)[WOMAN] / weights(alone)[MAN] == pytest.approx(max(ratio, 0.25 / 1.75), rel=1e-6)


def test_it_looks_from_its_first_step_on_every_so_many_steps() -> None:
    calibration, _ = loaded(Scripted(WOMAN), EVEN, first_step=5, every_steps=3)
    assert [step for step in range(1, 16) if calibration.is_due(step)] == [5, 8, 11, 14]


def test_captions_are_spread_over_the_rows_and_each_look_has_pictures_of_its_own() -> None:
    calibration, world = loaded(Scripted(WOMAN, MAN), EVEN, num_images=40)
    for step in (2, 4):
        calibration.look(step)
    first, second = world.made[:40], world.made[40:]
    assert [caption for caption, _ in first].count("mechanic") == 24  # 12 of 20 rows
    assert len({seed for _, seed in world.made}) == 80
    again, other = loaded(Scripted(WOMAN, MAN), EVEN, num_images=40)
    again.look(4)
    assert other.made == second  # a function of the step, not of the looks before it
    another, third = loaded(Scripted(WOMAN, MAN), EVEN, num_images=40, seed=1)
    another.look(4)
    assert {seed for _, seed in third.made}.isdisjoint(seed for _, seed in second)


def test_a_look_leaves_random_numbers_and_modes_as_they_were() -> None:
    calibration, world = loaded(Scripted(WOMAN, MAN), EVEN)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    calibration.look(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (world.unet.training, world.text_encoders["one"].training) == (True, False)
    torch.rand(7)  # which the world's pictures drew
    assert not torch.equal(torch.get_rng_state(), before)


def test_its_figures_stand_in_the_metrics_under_the_names_of_the_values() -> None:
    tracker = Lines()
    calibration, _ = loaded(Scripted(JOINT[0], JOINT[4]), rows("cook", {JOINT[0]: 3, JOINT[4]: 1}), tracker)
    calibration.look(6)
    ((step, line),) = tracker.lines
    assert step == 6
    assert {key: line[key] for key in line if "weight" not in key} == {
        "calibration/unread": 0.0,
        "calibration/seen/woman light": 0.5,
        "calibration/seen/man medium": 0.5,
    }
    found = weights(calibration)
    assert line["calibration/weight/woman light"] == found[JOINT[0]] > 1
    assert line["calibration/weight/man medium"] == found[JOINT[4]] < 1


def test_what_a_checkpoint_keeps_goes_on_bit_for_bit() -> None:
    shows = Scripted(*[WOMAN] * 5, *[MAN] * 7)
    straight, _ = loaded(shows, EVEN, num_images=12)
    for step in (2, 4, 6, 8, 10, 12):
        straight.look(step)
        if step == 6:
            kept = straight.state()
    resumed, _ = loaded(shows, EVEN, num_images=12)
    resumed.restore(kept)
    fresh, _ = loaded(shows, EVEN, num_images=12)
    for step in (8, 10, 12):
        resumed.look(step)
        fresh.look(step)
    assert resumed.state() == straight.state()
    assert fresh.state() != straight.state()


class Rank:
    """An Accelerator's collective among threads."""

    def __init__(self, ranks) -> None:
        self.process_index, self.num_processes, self.is_main_process = ranks.rank, ranks.num_ranks, ranks.rank == 0
        self.device, self._ranks = torch.device("cpu"), ranks

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return torch.stack(self._ranks.gather([tensor])).sum(dim=0)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_the_pictures_and_have_the_weights_of_one_also_where_one_has_no_share(num_ranks) -> None:
    examples, tilt = TILTS["30 % women"]
    alone, whole = loaded(Tilted(examples, tilt, answer=1.0), examples, lines := Lines(), num_images=15)
    for step in (2, 4):
        alone.look(step)

    def work(ranks):
        tracker = Lines()
        shows = Tilted(examples, tilt, answer=1.0)
        made, world = loaded(shows, examples, tracker, accelerator=Rank(ranks), num_images=15)
        for step in (2, 4):
            made.look(step)
        return made.state(), world.made, tracker.lines

    found = on_ranks(num_ranks, work)
    assert [state for state, _, _ in found] == [alone.state()] * num_ranks
    assert sorted(pair for _, made, _ in found for pair in made) == sorted(whole.made)
    assert [len(made) for _, made, _ in found] == [2 * 8, 2 * 7, 0][:num_ranks]
    assert [told for _, _, told in found] == [lines.lines, [], []][:num_ranks]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"reader": planted("judge"), "evaluated_by": "judge"},
            "the reader judge will evaluate .* another reader for the",
        ),
        ({"first_step": 0}, r"first_step must be >= 1, got 0 \(calibration.first_step\)"),
        ({"num_images": 0}, "num_images must be >= 1, got 0"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_value(changed, message) -> None:
    with pytest.raises(ValueError, match=message):
        choice(**changed)


@pytest.mark.parametrize("world_px", [8, 16])
def test_pictures_have_the_bases_own_size_unless_another_is_asked_for(world_px) -> None:
    seen = []

    class Sized(World):
        def generate(self, captions, seeds, settings):
            seen.append((settings.steps, settings.guidance, settings.height_px, settings.width_px))
            return super().generate(captions, seeds, settings)

    for size_px in (None, 24):
        world = Sized(Scripted(WOMAN, MAN), resolution_px=world_px)
        made = choice(size_px=size_px, batch_size=96, guidance=2.0).load(
            world, EVEN, seed=0, accelerator=Alone(), tracker=Lines()
        )
        made.look(2)
    assert seen == [(2, 2.0, world_px, world_px), (2, 2.0, 24, 24)]
