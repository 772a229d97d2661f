"""Which images a plan asks for, in which order and rounds, and what a frozen plan says when it is another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evenhand.evaluation.folder import all_arms, planned_images, rounds
from evenhand.evaluation.plan import Dose, GenerationPlan, Plan, Sequential, freeze_plan, load_plan, parse_plan
from tests.folders import plan_row, prompt_row

PROMPTS = [prompt_row("heldout", "mechanic"), prompt_row("heldout", "nurse"), prompt_row("unrelated", "car")]
MECHANIC, NURSE, CAR = (row["id"] for row in PROMPTS)


def planned() -> Plan:
    fields = ["base", "base_fingerprint", "encoders_fingerprint", "adapter_sha256", "dtype", "device"]
    generation = GenerationPlan(
        seeds={MECHANIC: (1, 2, 3), NURSE: (4, 5, 6), CAR: (7, 8)},
        batch_size=4,
        steps=1,
        guidance=1.0,
        height_px=8,
        width_px=8,
        adapter_scale=1.0,
        environment={"versions": {"torch": "2.13.0"}, "processor": {"num_threads": 1}},
        **dict.fromkeys(fields, "x"),
    )
    return replace(parse_plan(plan_row(PROMPTS), "test"), generation=generation)


def keys(images: list) -> list[tuple[str, int]]:
    return [(prompt.id, seed) for prompt, seed in images]


def test_an_arm_goes_prompt_by_prompt() -> None:
    plan = planned()
    expected = [(MECHANIC, 1), (MECHANIC, 2), (MECHANIC, 3), (NURSE, 4), (NURSE, 5), (NURSE, 6), (CAR, 7), (CAR, 8)]
    assert keys(planned_images(plan, "base")) == keys(planned_images(plan, "adapted")) == expected
    assert len(rounds(plan, "base")) == 1


def test_a_sequential_arm_goes_seed_by_seed_and_has_the_same_images() -> None:
    plan = replace(planned(), sequential=Sequential())
    assert [keys(images) for images in rounds(plan, "adapted")] == [
        [(MECHANIC, 1), (NURSE, 4), (CAR, 7)],
        [(MECHANIC, 2), (NURSE, 5), (CAR, 8)],
        [(MECHANIC, 3), (NURSE, 6)],
    ]
    assert keys(planned_images(plan, "base", num_rounds=1)) == [(MECHANIC, 1), (NURSE, 4), (CAR, 7)]
    assert sorted(keys(planned_images(plan, "base"))) == sorted(keys(planned_images(planned(), "base")))


@pytest.mark.parametrize("sequential", [None, Sequential()])
def test_a_dose_has_the_first_seeds_of_the_headline_at_every_scale_but_the_adapters(
    sequential: Sequential | None,
) -> None:
    plan = replace(planned(), dose=Dose(scales=(0.25, 1.0, 1.5), num_seeds=2), sequential=sequential)
    assert all_arms(plan) == ("base", "adapted", "adapted@0.25", "adapted@1.5")
    expected = {(MECHANIC, 1), (MECHANIC, 2), (NURSE, 4), (NURSE, 5)}
    assert set(keys(planned_images(plan, "adapted@0.25"))) == expected
    # After one round of a sequential run, one seed of the dose is comparable.
    assert len(planned_images(plan, "adapted@1.5", num_rounds=1)) == (4 if sequential is None else 2)


def test_what_decides_pixels_and_the_stopping_rule_survive_the_way_to_disk(tmp_path: Path) -> None:
    plan = replace(planned(), sequential=Sequential(width=0.2), dose=Dose(scales=(0.5,), num_seeds=1))
    freeze_plan(plan, tmp_path)
    assert load_plan(tmp_path) == plan


def test_another_version_of_a_package_or_byte_of_the_adapter_is_another_plan_and_named(tmp_path: Path) -> None:
    plan = planned()
    freeze_plan(plan, tmp_path)
    generation = plan.generation
    assert generation is not None
    newer = {**generation.environment, "versions": {"torch": "2.14.0"}}
    with pytest.raises(ValueError, match=r"generation.environment.versions.torch .2.13.0 -> 2.14.0."):
        freeze_plan(replace(plan, generation=replace(generation, environment=newer)), tmp_path)
    with pytest.raises(ValueError, match=r"different are generation.adapter_sha256 .x -> y."):
        freeze_plan(replace(plan, generation=replace(generation, adapter_sha256="y")), tmp_path)
    with pytest.raises(ValueError, match=r"different are sequential.width .absent -> 0.5."):
        freeze_plan(replace(plan, sequential=Sequential(width=0.5)), tmp_path)


@pytest.mark.parametrize("width", [0.0, 2.0, -1.0])
def test_a_width_that_cannot_be_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width of a sequential run"):
        Sequential(width=width)
