"""The choice of a validation: what it refuses, before anything is loaded; and the choices of conf/validation."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import yaml

from evenhand.compose import compose_config
from evenhand.construct import build
from evenhand.evaluation.overlap import text_key
from evenhand.evaluation.suites import Suites
from evenhand.evaluation.targets import Table
from evenhand.paths import conf_folder
from evenhand.records import Attribute
from evenhand.training.validation import ImageGrids, no_validation
from evenhand.training.validation_prompts import PlannedImages
from evenhand.training.validation_scores import TargetScore
from tests.tiny_validation import NUM_IMAGES, PRESENTATION, color_reader, tiny_choice, tiny_suite

CHOICES = sorted(path.stem for path in (conf_folder() / "validation").glob("*.yaml") if path.stem != "none")
SUITES = sorted(path.stem for path in (conf_folder() / "suite").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (conf_folder() / "recipe").glob("*.yaml"))
TINYTOWN_TOKENS = 24


def choice_of(name: str):
    return compose_config("train", [f"validation={name}"]).build("validation")


def texts(choice) -> list[str]:
    return [entry.prompt.text for entry in choice.images.prompts]


def test_no_validation_is_none() -> None:
    assert compose_config("train").build("validation") is None
    assert no_validation() is None


@pytest.mark.parametrize("name", CHOICES)
def test_no_validation_uses_a_prompt_or_held_out_concept_of_the_evaluations_that_it_names(name) -> None:
    choice_of(name).check([])


@pytest.mark.parametrize("name", CHOICES)
def test_no_validation_uses_a_prompt_of_any_suite_on_the_disk(name) -> None:
    """Counted another way than the check does: the composed suites of evaluate.yaml."""
    evaluated = set()
    for suite in SUITES:
        config = compose_config("evaluate", [f"suite={suite}"])
        attribute: Attribute = config.build("attribute")
        prompts = config.build("suite").prompts({attribute.name: attribute})
        evaluated |= {text_key(entry.prompt.text) for entry in prompts}
    own = {text_key(text) for text in texts(choice_of(name))}
    assert own
    assert not own & evaluated


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "images"])
def test_no_validation_prompt_is_a_caption_of_a_recipe(name) -> None:
    own = {text_key(text) for text in texts(choice_of(name))}
    for recipe in RECIPES:
        plan = build(compose_config("build", [f"recipe={recipe}"]).plain["recipe"]["plan"])
        assert not own & {text_key(text) for slot in plan.slots for text in (slot.neutral, slot.explicit)}


@pytest.mark.parametrize("name", CHOICES)
def test_every_suite_named_is_there_and_none_evaluates_with_the_reader_that_watches(name) -> None:
    choice = choice_of(name)
    assert set(choice.evaluation_suites) <= set(SUITES)
    if choice.scores:
        content = yaml.safe_load((conf_folder() / "validation" / f"{name}.yaml").read_text())
        assert (conf_folder() / "reader" / f"{content['evaluated_by']}.yaml").is_file()
        assert choice.judge.reader.name != content["evaluated_by"]


def test_tinytowns_watching_reader_is_not_the_one_that_evaluates() -> None:
    assert choice_of("tinytown").judge.reader.name != compose_config("evaluate").build("reader").name


def test_tinytown_reads_every_validation_prompt_whole() -> None:
    from evenhand.bases.checkpoint import quiet_loading
    from evenhand.paths import model_path

    with quiet_loading():
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(model_path("evenhand:tinytown/base") + "/tokenizer")
    for name in ("tinytown", "images"):
        assert max(len(tokenizer(text).input_ids) for text in texts(choice_of(name))) <= TINYTOWN_TOKENS


def test_the_attribute_is_chosen_in_one_word() -> None:
    choice = compose_config("train", ["validation=tinytown", "attribute@validation.attribute=skin"]).build("validation")
    assert choice.judge.attribute.name == "skin"
    assert any("dark-skinned" in text for text in texts(choice))
    choice.check([])


def test_a_prompt_that_evaluates_is_refused_however_it_is_written() -> None:
    suite = tiny_suite(template="A  Portrait of {a_concept}!")
    with pytest.raises(ValueError, match=r"'A  Portrait of a mechanic!'.*also in .*suite.tinytown.yaml"):
        tiny_choice(suite=suite).check([])


def test_a_prompt_that_states_a_value_is_compared_with_the_evaluations_own() -> None:
    suite = Suites(
        concepts={"people": ["artist"], "told": ["mechanic"]},
        groups=[
            {"suite": "train", "concepts": "people", "templates": ["a friendly illustration of {a_concept}"]},
            {
                "suite": "explicit",
                "concepts": "told",
                "templates": ["a portrait of {a_concept}"],
                "name": "presentation",
            },
        ],
        num_seeds={"train": 2, "explicit": 1},
    )
    tiny_choice(suite=suite).check([])  # the tinytown suite states values in other wordings
    with pytest.raises(ValueError, match="'a portrait of a female mechanic'"):
        tiny_choice(suite=suite, evaluation_suites=["tinytown_demo"]).check([])


def test_a_concept_that_is_held_out_for_the_headline_is_refused_in_any_wording() -> None:
    suite = tiny_suite(concepts=("mechanic", "pilot"), template="drawings of a friendly {concept}")
    with pytest.raises(ValueError, match="tinytown.yaml holds out for the headline: 'drawings of a friendly pilot'"):
        tiny_choice(suite=suite).check([])
    tiny_choice(suite=suite, evaluation_suites=["sd_markets"]).check([])


def test_a_suite_of_ones_own_is_compared_with_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (conf_folder() / "suite" / "tinytown_demo.yaml").read_text()
    path.write_text(text.replace("a portrait of {a_concept}", "a portrait of {a_concept} with a hat"))
    choice = tiny_choice(suite=tiny_suite(concepts=("mechanic", "nurse")), evaluation_suites=[str(path)])
    with pytest.raises(ValueError, match=r"'a portrait of a mechanic with a hat'.*mine.yaml"):
        choice.check([])
    path.write_text(text)
    choice.check([])


def test_a_suite_that_is_not_there_or_not_a_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation suite 'tinytwon' not found .* or one of sd_markets"):
        tiny_choice(evaluation_suites=["tinytwon"]).check([])
    path = tmp_path / "other.yaml"
    path.write_text("_target_: somewhere.Else\n")
    with pytest.raises(ValueError, match="its _target_ must be evenhand.evaluation.suites.Suites"):
        tiny_choice(evaluation_suites=[str(path)]).check([])


def test_prompts_that_training_shows_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    choice = tiny_choice(evaluation_suites=["sd_markets"])
    with caplog.at_level(logging.WARNING):
        choice.check(["a portrait of a nurse"])
        assert not caplog.records
        choice.check(["A portrait of a nurse, with a hat"])
    assert "1 of 5 validation prompts are captions of the curated set" in caplog.text


def _unrelated() -> Suites:
    groups = [{"suite": "unrelated", "concepts": "c", "templates": ["{a_concept}"]}]
    return Suites(concepts={"c": ["car"]}, groups=groups, num_seeds={"unrelated": 1})


def _other(name: str) -> Attribute:
    return Attribute(name=name, values=("a", "b"), forms={"a": "a {}", "b": "b {}"}, words={"a": (), "b": ()})


def _only_stating() -> Suites:
    groups = [{"suite": "explicit", "concepts": "c", "templates": ["{a_concept}"], "name": "presentation"}]
    return Suites(concepts={"c": ["cook"]}, groups=groups, num_seeds={"explicit": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every_steps": 0}, "every_steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"steps": 0}, "sampling steps must be >= 1, got 0"),
        ({"guidance": 0.5}, "guidance must be >= 1"),
        ({"evaluation_suites": []}, "must name the suites that the adapter may be evaluated with"),
        ({"evaluated_by": "colors"}, "the reader colors will evaluate .*, so it may not choose among checkpoints"),
        ({"suite": _unrelated()}, "got suite unrelated"),
        ({"suite": _only_stating()}, "needs a neutral prompt"),
        ({"target": Table(rows={"judge": [1, 0]}, source="x")}, "no target for the concept 'mechanic'"),
        ({"attribute": _other("presentation")}, "reader colors must read presentation with the values"),
        ({"attribute": _other("hat")}, "but reads it not"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_chosen(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_choice(**changes)


def test_the_images_are_planned_once_and_for_all() -> None:
    """A seed that moved would make the curves of two versions of evenhand look different for no reason."""
    images = tiny_choice().images.images()
    assert len(images) == NUM_IMAGES
    assert [(image.row, image.column) for image in images[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len({image.seed for image in images}) == NUM_IMAGES
    again = tiny_choice(suite=tiny_suite(concepts=("mechanic", "nurse"))).images.images()
    seeds = {(image.text, image.column): image.seed for image in images}
    assert all(seeds[image.text, image.column] == image.seed for image in again)
    digest = hashlib.sha256(b"0\x1fvalidation\x1fheldout-mechanic-00\x1f0").digest()
    assert images[0].seed == int.from_bytes(digest[:8], "big") % 2**63


def test_another_root_seed_gives_other_images() -> None:
    one, two = tiny_choice().images.images(), tiny_choice(seed=1).images.images()
    assert not {image.seed for image in one} & {image.seed for image in two}


def test_an_image_grid_needs_prompts_and_knows_no_score() -> None:
    arguments = {"every_steps": 1, "num_seeds": 2, "evaluation_suites": [], "steps": 1, "guidance": 1.0}
    arguments |= {"size_px": None, "batch_size": 1, "seed": 0}
    assert not ImageGrids(prompts=["a red cat"], **arguments).scores
    with pytest.raises(ValueError, match="needs a prompt"):
        ImageGrids(prompts=[], **arguments)
    with pytest.raises(ValueError, match="num_seeds must be >= 1, got 0"):
        ImageGrids(prompts=["a red cat"], **{**arguments, "num_seeds": 0})
    with pytest.raises(ValueError, match="may not use prompts that evaluate"):
        ImageGrids(prompts=["a portrait of a mechanic"], **{**arguments, "evaluation_suites": ["tinytown"]}).check([])


def test_what_is_planned_is_a_part_of_a_score_and_a_target() -> None:
    choice = tiny_choice(reader=color_reader(name="other"))
    assert isinstance(choice.images, PlannedImages)
    assert isinstance(choice.judge.score, TargetScore)
    assert choice.judge.attribute == PRESENTATION
    assert choice.needs_encoders
