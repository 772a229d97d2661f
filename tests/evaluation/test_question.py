"""From choices to a plan, with the planted reader and a base that is only asked for its names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from evenhand.compose import compose_config
from evenhand.evaluation.forecast import duration, expected_effect, forecast
from evenhand.evaluation.overlap import TrainingCaptions
from evenhand.evaluation.plan import Plan, parse_plan, plan_json
from evenhand.evaluation.question import EvaluationSettings, Question, ask, plan_evaluation
from evenhand.evaluation.suites import Suites
from evenhand.evaluation.targets import Table, Uniform
from evenhand.evaluation.tiers import Tier
from evenhand.interfaces import LoadedBase, Reader, SamplingSettings
from evenhand.records import Attribute

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": (), "man": ()},
)
SUITES = Suites(
    concepts={"jobs": ["pilot", "teacher", "cook", "farmer"], "trained": ["mechanic"]},
    groups=[
        {"suite": "heldout", "concepts": "jobs", "templates": ["a portrait of {a_concept}", "a photo of {a_concept}"]},
        {"suite": "train", "concepts": "trained", "templates": ["a portrait of {a_concept}"]},
    ],
    num_seeds={"heldout": 6, "train": 2},
    name="small",
    version=3,
)
ROWS = {"target": {"prompts": 4, "seeds": 3}}


@dataclass(frozen=True)
class Declares:
    """What is asked of a reader before it is loaded."""

    name: str
    attributes: Mapping[str, Sequence[str]]


def reader(name: str = "one", **attributes: Sequence[str]) -> Reader:
    declared = {"presentation": ("woman", "man"), "skin": ("light", "medium", "dark"), **attributes}
    return cast(Reader, Declares(name, declared))


def settings(**changes: Any) -> EvaluationSettings:
    built = compose_config("evaluate").build("evaluation")
    return replace(built, **{"side_attributes": ("skin",), "guard_attributes": (), **changes})


def question(*, changes: Mapping[str, Any] | None = None, **choices: Any) -> Question:
    chosen = {"attribute": PRESENTATION, "target": Uniform(), "suites": SUITES, "reader": reader(), **choices}
    return ask(settings(**(changes or {})), **chosen)


def plan_of(asked: Question, *, seed: int = 0) -> Plan:
    base = SimpleNamespace(name="b", fingerprint="f", encoders_fingerprint="e")
    sampling = SamplingSettings(steps=2, guidance=1.0, height_px=8, width_px=8)
    return plan_evaluation(
        asked, cast(LoadedBase, base), sampling=sampling, adapter_sha256="a", seed=seed, device="cpu"
    )


def captions(*texts: str) -> TrainingCaptions:
    return TrainingCaptions(by_split={"train": frozenset(texts)}, source="test")


def test_the_plan_says_where_its_prompts_come_from_and_survives_the_way_to_disk() -> None:
    plan = plan_of(question())
    content = plan_json(plan)
    assert content["suite"] == {"name": "small", "version": 3}
    assert content["training_captions"] is None
    assert "seen" not in content
    assert "tier" not in content
    everything = question(captions=captions("a portrait of a pilot"), tier=Tier(name="t", rows=ROWS, audit_pairs=1))
    for made in (plan, plan_of(everything)):
        assert parse_plan(json.loads(json.dumps(plan_json(made))), "test") == made


def test_a_tier_decides_prompts_and_seeds_and_is_written_down() -> None:
    tier = Tier(name="tiny", rows=ROWS, audit_pairs=7)
    asked = question(tier=tier)
    content = plan_json(plan_of(asked))
    assert content["tier"] == "tiny"
    assert content["audit_pairs"] == 7
    assert content["rows"] == [{"row": "target", "suites": ["heldout", "train"], "wanted": 4, "prompts": 4, "seeds": 3}]
    assert sum(entry.num_seeds for entry in asked.prompts) == 12
    assert {len(seeds) for seeds in content["generation"]["seeds"].values()} == {3}


def test_the_seeds_of_a_small_tier_are_the_first_of_a_bigger_run() -> None:
    tier = Tier(name="tiny", rows={"target": {"prompts": 4, "seeds": 2}}, audit_pairs=0)
    small, whole = plan_of(question(tier=tier)).generation, plan_of(question()).generation
    assert small is not None
    assert whole is not None
    assert all(whole.seeds[prompt][:2] == seeds for prompt, seeds in small.seeds.items())


def test_what_training_showed_is_excluded_and_changes_nothing_else() -> None:
    plain, judged = plan_of(question()), plan_of(question(captions=captions("a portrait of a pilot")))
    assert [row["prompt"]["id"] for row in judged.extra["excluded"]] == ["heldout-pilot-00"]
    assert {prompt.id for prompt in plain.prompts} - {prompt.id for prompt in judged.prompts} == {"heldout-pilot-00"}
    assert judged.extra["seen"] == {"train": {"prompts": 0, "of": 1}}
    assert judged.extra["training_captions"]["train"] == 1
    assert plain.generation is not None
    assert judged.generation is not None
    assert all(plain.generation.seeds[prompt] == seeds for prompt, seeds in judged.generation.seeds.items())


def test_joints_are_read_and_get_their_own_target() -> None:
    asked = question(changes={"joints": [["presentation", "skin"]], "side_attributes": ()}, joint_target=Uniform())
    plan = plan_of(asked)
    assert plan.joints == (("presentation", "skin"),)
    assert set(plan.attributes) == {"presentation", "skin"}
    assert plan.target("presentation × skin", "pilot") == (1 / 6,) * 6
    without = question(changes={"joints": [["presentation", "skin"]]})
    assert [target.attribute for target in without.targets] == ["presentation"]


def test_a_dose_is_planned_on_headline_prompts_only() -> None:
    plan = plan_of(question(changes={"dose_scales": (0.5, 1.25), "dose_num_seeds": 4}))
    assert plan.dose_arms == {"adapted@0.5": 0.5, "adapted@1.25": 1.25}
    counted = forecast(plan, images_per_second=2.0, num_cached=10)
    # 8 held-out prompts of 6 and one of 2 seeds; twice that, and 2 scales x 8 prompts x 4 seeds.
    assert (counted.num_pairs, counted.num_dose, counted.num_images) == (50, 64, 164)
    assert counted.seconds == pytest.approx((164 - 10) / 2)
    first, second = counted.lines()
    assert "50 pairs of images, 64 at other scales: 164 images (10 are there already), about 1 min" in first
    assert "80% power" in second
    assert "for shares of 50%, the worst case" in second


def test_the_adapters_own_scale_makes_no_further_images() -> None:
    alone, both = (plan_of(question(changes={"dose_scales": scales})) for scales in ((0.5,), (0.5, 1.0)))
    assert forecast(alone).num_images == forecast(both).num_images
    with pytest.raises(ValueError, match="other than 0"):
        settings(dose_scales=(0.0, 0.5))


def test_second_readers_must_read_the_attribute_and_be_others() -> None:
    assert question(second_readers=[reader("two")]).second_readers == ("two",)
    with pytest.raises(ValueError, match="a second opinion of the same reader is none"):
        question(second_readers=[reader("one")])
    with pytest.raises(ValueError, match="reader two reads .'no', 'yes'."):
        question(second_readers=[reader("two", presentation=("no", "yes"))])


def test_a_joint_of_something_unread_is_refused() -> None:
    with pytest.raises(ValueError, match="reader one does not read 'age'"):
        question(changes={"joints": [["presentation", "age"]]})


def test_the_smallest_effect_is_found_as_often_as_it_says() -> None:
    """Simulated: prompts' shifts with sd 0.11 around the effect, images of both arms independent at shares near 0.5."""
    plan = plan_of(question())
    effect = expected_effect(plan, sigma_between=0.11)
    assert effect is not None
    assert (effect.prompts, effect.images) == (4, 48)
    assert plan.extra["mde"]["value"] == effect.value
    rng, runs = np.random.default_rng(1), 4000
    n = effect.images // effect.prompts
    shift = effect.value + 0.11 * rng.standard_normal((runs, effect.prompts))
    base, adapted = np.clip(0.5 - shift / 2, 0, 1), np.clip(0.5 + shift / 2, 0, 1)
    seen = (rng.binomial(n, adapted) - rng.binomial(n, base)) / n
    error = seen.std(axis=1, ddof=1) / effect.prompts**0.5
    found = float(np.mean(np.abs(seen.mean(axis=1)) > 3.182 * error))  # t with 3 degrees of freedom, from a table
    assert 0.75 < found < 0.87


def test_a_share_of_one_half_is_the_worst_case_that_the_forecast_is_made_for() -> None:
    plan = plan_of(question())
    effects = [expected_effect(plan, sigma_between=0.11, base_share=share) for share in (0.05, 0.5, 0.95)]
    low, half, high = (effect.value for effect in effects if effect is not None)
    assert half == plan.extra["mde"]["value"]
    assert low == high < half


def test_prompts_that_differ_more_let_less_be_found() -> None:
    plan = plan_of(question())
    assert expected_effect(replace(plan, prompts=plan.in_suite("heldout")[:4]), sigma_between=0.11) is None
    wide, narrow = expected_effect(plan, sigma_between=0.11), expected_effect(plan, sigma_between=0.0)
    assert wide is not None
    assert narrow is not None
    assert narrow.value < wide.value
    one = replace(plan, prompts=plan.in_suite("heldout")[:1])
    assert expected_effect(one, sigma_between=0.11) is None
    assert "too few" in forecast(replace(one, extra={})).lines()[1]


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (700, "12 min"), (9000, "2.5 h")])
def test_times_are_said_as_one_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_row_for_a_concept_that_no_list_has_is_refused_unless_it_is_of_a_statistic() -> None:
    rows = {"*": {"woman": 0.5, "man": 0.5}, "nurze": {"woman": 0.9, "man": 0.1}}
    with pytest.raises(ValueError, match="target of presentation: unknown concept 'nurze'"):
        question(target=Table(rows=rows, source="x"))
    asked = question(target=Table(rows=rows, source="x", reference=True))
    assert [target.concept for target in asked.targets] == ["*"]


def test_a_joint_target_is_given_by_the_names_of_its_cells() -> None:
    tones = {"light": 0.2, "medium": 0.1, "dark": 0.2}
    joint = Table(rows={"*": {"woman": tones, "man": dict(reversed(tones.items()))}}, source="x")
    asked = question(changes={"joints": (("presentation", "skin"),)}, joint_target=joint)
    assert [target.attribute for target in asked.targets] == ["presentation", "presentation × skin"]
    assert asked.targets[1].shares == (0.2, 0.1, 0.2, 0.2, 0.1, 0.2)
