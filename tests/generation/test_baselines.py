"""Baselines as second arms on a real tiny pipeline: what they state, what they leave alone, and what they change."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.bases.sdxl import LoadedStableDiffusionXL
from evenhand.evaluation.plan import Dose, GenerationPlan, Plan, parse_plan
from evenhand.evaluation.suites import Suites
from evenhand.evaluation.targets import Table
from evenhand.generation.arms import Work, finish_images, generate_arms
from evenhand.generation.check import check_adapter
from evenhand.generation.fair_guidance import Edit, FairGuidance
from evenhand.generation.negative_prompt import NegativePrompt
from evenhand.generation.prompt_rewrite import PromptRewrite
from evenhand.generation.second_arm import Asked, SecondArm
from evenhand.interfaces import LoadedBase
from evenhand.records import Attribute, Target
from evenhand.seeds import derive
from tests.folders import plan_row, prompt_row
from tests.tiny_evaluation import Counting

PRESENTATION = Attribute(
    name="presentation",
    values=("woman", "man"),
    forms={"woman": "female {}", "man": "male {}"},
    words={"woman": ("woman", "female"), "man": ("man", "male")},
)
SKIN = Attribute(
    name="skin",
    values=("light", "dark"),
    forms={"light": "light-skinned {}", "dark": "dark-skinned {}"},
    words={"light": ("light-skinned",), "dark": ("dark-skinned",)},
)
SUITES = Suites(
    concepts={
        "people": ["mechanic", "electrician"],
        "meetup": [{"name": "python developers", "noun": "python developer"}],
        "objects": ["car"],
    },
    groups=[
        {"suite": "heldout", "concepts": "people", "templates": ["a portrait of {a_concept}"]},
        {"suite": "groups", "concepts": "meetup", "templates": ["a meetup of {concepts}"]},
        {"suite": "explicit", "concepts": "people", "templates": ["a photo of {a_concept}"], "name": "presentation"},
        {"suite": "unrelated", "concepts": "objects", "templates": ["a photo of {a_concept}"]},
    ],
    num_seeds={"heldout": 2, "groups": 2, "explicit": 2, "unrelated": 2},
)
TREATED = ("heldout", "groups")
EDIT = Edit(guidance=4.0, warmup=0.0, threshold=0.5, momentum_scale=0.5, momentum_beta=0.6)
ARMS: list[SecondArm] = [
    PromptRewrite(suites=TREATED, attributes={}),
    NegativePrompt(suites=TREATED, attributes={}, says="prompt"),
    FairGuidance(suites=TREATED, attributes={}, noun="person", edit=EDIT),
]
NAMES = [arm.name for arm in ARMS]


def plan_for(base: LoadedBase, *, num_seeds: int = 2, size_px: int = 32, guidance: float = 3.0) -> Plan:
    """The suites' prompts with their seeds, on target 1/2."""
    planned = [entry.prompt for entry in SUITES.prompts({"presentation": PRESENTATION})]
    rows = [
        prompt_row(prompt.suite, prompt.concept) | {"id": prompt.id, "text": prompt.text, "expects": prompt.expects}
        for prompt in planned
    ]
    generation = GenerationPlan(
        seeds={prompt.id: tuple(derive(0, prompt.id, index) for index in range(num_seeds)) for prompt in planned},
        batch_size=4,
        steps=3,
        guidance=guidance,
        height_px=size_px,
        width_px=size_px,
        dtype="float32",
        device="cpu",
        base=base.name,
        base_fingerprint=base.fingerprint,
        encoders_fingerprint=base.encoders_fingerprint,
        adapter_sha256="",
        adapter_scale=1.0,
    )
    return replace(parse_plan(plan_row(rows), "test"), generation=generation)


def with_facts(plan: Plan, arm: SecondArm, attribute: Attribute = PRESENTATION) -> Plan:
    facts = arm.facts(Asked(plan=plan, suites=SUITES, attribute=attribute))
    assert plan.generation is not None
    generation = replace(plan.generation, arm={"name": arm.name, **facts})
    return replace(plan, arms=("base", arm.name), generation=generation)


def told(plan: Plan) -> dict[str, list[object]]:
    assert plan.generation is not None
    found: dict[str, list[object]] = plan.generation.arm["instructions"]
    return found


@pytest.mark.parametrize("arm", ARMS, ids=NAMES)
def test_an_arm_at_scale_0_is_the_base_bit_for_bit_and_at_1_changes_what_it_treats_and_nothing_else(
    arm: SecondArm, sd: LoadedStableDiffusion, tmp_path: Path
) -> None:
    plan = replace(with_facts(plan_for(sd), arm), dose=Dose(scales=(1.0,), num_seeds=1))
    before = {name: value.clone() for name, value in sd.unet.state_dict().items()}
    work = Work(plan=plan, folder=tmp_path / "run", arm=arm)
    check_adapter(work, sd)  # raises unless scale 0 gives the base's images
    generate_arms(work, sd)
    records = finish_images(plan, work.folder)
    half = len(records) // 2
    suites = {prompt.id: prompt.suite for prompt in plan.prompts}
    for base, changed in zip(records[:half], records[half:], strict=True):
        assert base.noise_sha256 == changed.noise_sha256
        assert (base.sha256 != changed.sha256) == (suites[base.prompt_id] in TREATED), base.prompt_id
    assert all(torch.equal(value, before[name]) for name, value in sd.unet.state_dict().items())
    assert not sd.unet._forward_hooks


def test_the_rewritten_prompt_states_a_value_drawn_from_the_target_and_others_stay(sd: LoadedStableDiffusion) -> None:
    plan = with_facts(plan_for(sd, num_seeds=400), ARMS[0])
    texts = told(plan)
    assert set(texts) == {"heldout-mechanic-00", "heldout-electrician-00", "groups-python-developers-00"}
    counts = Counter(texts["heldout-electrician-00"])
    assert set(counts) == {"a portrait of a female electrician", "a portrait of a male electrician"}
    assert abs(counts["a portrait of a female electrician"] - 200) < 4 * 10  # four standard deviations of 400 coins
    assert set(texts["groups-python-developers-00"]) == {
        "a meetup of female python developers",
        "a meetup of male python developers",
    }


def test_shares_follow_a_table_and_concepts_that_are_left_alone_are_left_alone(sd: LoadedStableDiffusion) -> None:
    rows = {"*": {"woman": 0.9, "man": 0.1}, "electrician": "base"}
    plan = replace(plan_for(sd, num_seeds=400), targets=Table(rows=rows, source="test").targets(PRESENTATION))
    texts = told(with_facts(plan, ARMS[0]))
    assert "heldout-electrician-00" not in texts
    assert abs(texts["heldout-mechanic-00"].count("a portrait of a female mechanic") - 360) < 4 * 6


def test_every_arm_draws_the_same_value_for_an_image(sd: LoadedStableDiffusion) -> None:
    plan = plan_for(sd, num_seeds=20)
    rewritten, negative, guided = (told(with_facts(plan, arm))["heldout-mechanic-00"] for arm in ARMS)
    for text, other, cell in zip(rewritten, negative, guided, strict=True):
        words = {"woman": ("female", "male"), "man": ("male", "female")}[cell[0]]  # type: ignore[index]
        assert (text, other) == tuple(f"a portrait of a {word} mechanic" for word in words)


def test_a_smaller_scale_treats_fewer_images_all_of_them_among_those_of_a_larger_one(
    sd: LoadedStableDiffusion, tmp_path: Path
) -> None:
    plan = with_facts(plan_for(sd, num_seeds=8), ARMS[0])
    seen = []
    for scale in (0.0, 0.25, 0.75, 1.0):
        counting = Counting(sd)
        prompt = plan.prompts[0]
        assert plan.generation is not None
        with ARMS[0].applied(counting, plan, scale=scale) as make:  # type: ignore[arg-type]  # it stands for the base
            make([(prompt, seed) for seed in plan.generation.seeds[prompt.id]])
        seen.append({place for place, text in enumerate(counting.calls[0]) if text != prompt.text})
    assert seen[0] == set()
    assert seen[0] <= seen[1] <= seen[2] <= seen[3] == set(range(8))
    assert 0 < len(seen[2]) < 8
    with pytest.raises(ValueError, match="its scale is the share of images that it treats, between 0 and 1, got 1.5"):
        with_facts(replace(plan, dose=Dose(scales=(1.5,), num_seeds=1)), ARMS[0])


def test_combinations_are_stated_together_and_need_a_target_of_their_own(sd: LoadedStableDiffusion) -> None:
    arm = PromptRewrite(suites=TREATED, attributes={"skin": SKIN})
    plan = plan_for(sd, num_seeds=50)
    with pytest.raises(ValueError, match="no target for 'presentation × skin' to draw from"):
        with_facts(plan, arm)
    plan = replace(
        plan,
        attributes={each.name: each.values for each in (PRESENTATION, SKIN)},
        joints=(("presentation", "skin"),),
        targets=(Target(attribute="presentation × skin", shares=(0.5, 0.0, 0.0, 0.5)),),
    )
    texts = told(with_facts(plan, arm))["heldout-mechanic-00"]
    assert set(texts) == {
        "a portrait of a light-skinned female mechanic",
        "a portrait of a dark-skinned male mechanic",
    }


def test_an_arm_that_leaves_the_headline_alone_is_refused(sd: LoadedStableDiffusion) -> None:
    with pytest.raises(ValueError, match=r"the headline is about heldout \(arm.suites=\[heldout\]\)"):
        with_facts(plan_for(sd), PromptRewrite(suites=["scene"], attributes={}))
    named = Attribute(
        name="presentation",
        values=("woman", "man"),
        forms=PRESENTATION.forms,
        words={"woman": ("portrait",), "man": ()},
    )
    with pytest.raises(ValueError, match="there is nothing to treat"):
        with_facts(plan_for(sd), ARMS[0], named)


def test_a_negative_prompt_needs_guidance(sd: LoadedStableDiffusion) -> None:
    with pytest.raises(ValueError, match="sampling.guidance=1 is no guidance, so a negative prompt does nothing"):
        with_facts(plan_for(sd, guidance=1.0), ARMS[1])


def test_a_negative_prompt_may_say_the_value_alone(sd: LoadedStableDiffusion) -> None:
    arm = NegativePrompt(suites=TREATED, attributes={}, says="value")
    assert set(told(with_facts(plan_for(sd, num_seeds=20), arm))["heldout-mechanic-00"]) == {"male", "female"}


def test_images_of_sdxl_without_a_negative_are_the_bases(sdxl: LoadedStableDiffusionXL, tmp_path: Path) -> None:
    """Its pipeline starts from zeros without negative prompts, and from the text "" as soon as one image has any."""
    plan = with_facts(plan_for(sdxl, size_px=64), ARMS[1])
    prompts = {prompt.suite: prompt for prompt in plan.prompts}
    assert plan.generation is not None
    images = [(prompts[suite], plan.generation.seeds[prompts[suite].id][0]) for suite in ("heldout", "unrelated")]
    made = []
    for scale in (0.0, 1.0):
        with ARMS[1].applied(sdxl, plan, scale=scale) as make:
            made.append([each.image.tobytes() for each in make(images)])
    assert made[0][0] != made[1][0]
    assert made[0][1] == made[1][1]


def reference_latents(base: LoadedStableDiffusion, text: str, seed: int, edit: Edit, values: list[str]) -> torch.Tensor:
    """The image of diffusers' own semantic guidance, towards the first edit prompt and away from the others."""
    from diffusers import SemanticStableDiffusionPipeline

    parts = {name: getattr(base.pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = SemanticStableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        found: torch.Tensor = pipeline(
            prompt=text,
            height=32,
            width=32,
            num_inference_steps=3,
            guidance_scale=3.0,
            latents=noise,
            editing_prompt=values,
            reverse_editing_direction=[False] + [True] * (len(values) - 1),
            edit_guidance_scale=edit.guidance,
            edit_warmup_steps=1,
            edit_threshold=edit.threshold,
            edit_momentum_scale=edit.momentum_scale,
            edit_mom_beta=edit.momentum_beta,
            output_type="pt",
        ).images
    return found


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_fair_guidance_makes_the_image_of_diffusers_semantic_guidance(
    sd: LoadedStableDiffusion, threshold: float
) -> None:
    edit = replace(EDIT, threshold=threshold, warmup=0.34)  # one of three steps
    arm = FairGuidance(suites=TREATED, attributes={}, noun="person", edit=edit)
    plan = with_facts(plan_for(sd), arm)
    prompt = plan.in_suite("heldout")[0]
    assert plan.generation is not None
    seed = plan.generation.seeds[prompt.id][0]
    drawn = told(plan)[prompt.id][0][0]  # type: ignore[index]
    values = sorted(["female person", "male person"], key=lambda text: text.startswith("male") == (drawn == "woman"))
    with arm.applied(sd, plan, scale=1.0) as make:
        image = make([(prompt, seed)])[0].image
    with arm.applied(sd, plan, scale=0.0) as make:
        plain = make([(prompt, seed)])[0].image
    wanted = (reference_latents(sd, prompt.text, seed, edit, values)[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert image.tobytes() != plain.tobytes()
    difference = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).int() - wanted.flatten().int()
    assert difference.abs().max() <= 1


def test_fair_guidance_works_without_guidance_and_on_sdxl(
    sd: LoadedStableDiffusion, sdxl: LoadedStableDiffusionXL
) -> None:
    for base, guidance, size_px in ((sd, 1.0, 32), (sdxl, 3.0, 64), (sdxl, 1.0, 64)):
        plan = with_facts(plan_for(base, guidance=guidance, size_px=size_px), ARMS[2])
        prompts = {prompt.suite: prompt for prompt in plan.prompts}
        assert plan.generation is not None
        images = [(prompts[suite], plan.generation.seeds[prompts[suite].id][0]) for suite in ("heldout", "unrelated")]
        made = []
        for scale in (0.0, 1.0):
            with ARMS[2].applied(base, plan, scale=scale) as make:
                made.append([each.image.tobytes() for each in make(images)])
        assert made[0][0] != made[1][0]
        assert made[0][1] == made[1][1]
