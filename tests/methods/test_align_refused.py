"""What distributional alignment refuses: when it is made, before a base is loaded, and before anything is encoded."""

from __future__ import annotations

import pytest

from evenhand.evaluation.targets import Table, Uniform
from evenhand.records import Example
from tests.methods.test_align import Colors, align, attribute, batch_for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluated_by": "colors"}, r"colors will evaluate \(evaluated_by\), so it may not sit in the training loop"),
        ({"reader": Colors(differentiable=False)}, "colors gives no gradients for pixels"),
        ({"attributes": {"first": attribute("glasses", "worn", "absent")}}, "must read glasses .* but reads it not"),
        ({"attributes": {"first": attribute("skin", "light", "dark")}}, "must read skin with the values .* but reads"),
        ({"attributes": {}}, "attributes is empty"),
        ({"targets": {"age": Uniform()}}, "'age' is none of the attributes presentation"),
        ({"kept_attributes": ["hats"], "kept_weight": 1.0}, "'hats' must be one of the reader's attributes"),
        ({"kept_attributes": ["presentation"], "kept_weight": 1.0}, "not one that is to change"),
        ({"kept_attributes": ["skin"]}, r"kept_weight=0\.0 and kept_attributes=\['skin'\] go together"),
        ({"gradient_steps": 4}, r"at most sampling_steps \(3\), got 4"),
        ({"images_per_prompt": 0}, "images_per_prompt must be >= 1, got 0"),
        ({"max_images": 5}, r"max_images must be >= images_per_prompt \(6\), got 5"),
        ({"gradient": "direct"}, "gradient must be one of adjusted, exact, got 'direct'"),
        ({"guidance": 0.5}, "guidance must be >= 1"),
        ({"min_confidence": 1.5}, "min_confidence must be in"),
        ({"image_weight": -1.0}, "image_weight must be >= 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        align(**changes)


def example(concept: str) -> Example:
    text = f"a portrait of a {concept}"
    return Example(
        file_name="0.png", text=text, concept=concept, labels={}, template="", source="", seed=0, license=""
    )  # fmt: skip


def test_a_concept_for_which_there_is_no_target_is_refused_before_a_base_is_loaded() -> None:
    method = align(target=Table(rows={"mechanic": [0.8, 0.2]}, source="made up"))
    method.check({"train": [example("mechanic")]})
    with pytest.raises(ValueError, match="presentation has no target for concept 'nurse'"):
        method.check({"train": [example("mechanic"), example("nurse")]})


def test_a_set_whose_concepts_are_all_left_alone_is_refused() -> None:
    method = align(target=Table(rows={"mechanic": "base", "*": [0.5, 0.5]}, source="made up"))
    method.check({"train": [example("mechanic"), example("nurse")]})
    with pytest.raises(ValueError, match="every concept of the set is to stay as the base has it"):
        method.check({"train": [example("mechanic")]})


def test_what_does_not_fit_the_base_is_refused_before_anything_is_encoded(sd) -> None:
    align().prepare(sd)
    with pytest.raises(ValueError, match="1 to 500 steps, got 501"):
        align(sampling_steps=501).prepare(sd)
    reader = Colors()
    reader.attributes["hats"] = ("worn", "absent")  # read, but not with gradients
    with pytest.raises(ValueError, match="reader colors gives no gradients for hats"):
        align(reader, kept_attributes=["hats"], kept_weight=1.0).prepare(sd)


def test_a_batch_without_concepts_is_refused(sd) -> None:
    with pytest.raises(ValueError, match="each row's concept and seed"):
        align().loss(sd, batch_for(sd, concepts=()))
