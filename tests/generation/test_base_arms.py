"""The cache of base images: whatever may change a pixel is a miss, nothing changed is not one call of the sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.plan import GenerationPlan, Plan
from evenhand.generation import base_arms
from evenhand.generation.arms import Work, batches, finish_images, generate_arms
from evenhand.generation.base_arms import batch_key
from evenhand.generation.environment import PACKAGES, environment_of
from tests.tiny_evaluation import Counting, saved_adapter, tiny_plan

CPU = torch.device("cpu")


@pytest.fixture
def work(sd: LoadedStableDiffusion, tmp_path: Path) -> Work:
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    return Work(plan=planned(sd, adapter), folder=tmp_path / "first", adapter=adapter, cache=tmp_path / "cache")


def planned(base: LoadedStableDiffusion, adapter: Path) -> Plan:
    plan = tiny_plan(base, adapter)
    assert plan.generation is not None
    return replace(plan, generation=replace(plan.generation, environment=environment_of(base, CPU)))


def another(work: Work, base: LoadedStableDiffusion, name: str) -> Work:
    """The evaluation of another adapter on the same base."""
    adapter = saved_adapter(base, work.folder.parent / name, strength=1.0)
    return replace(work, plan=planned(base, adapter), folder=work.folder.with_name(f"{name}-run"), adapter=adapter)


def keys(plan: Plan) -> list[str]:
    return [batch_key(plan, batch.images) for batch in batches(plan, "base")]


def changed(plan: Plan, **changes: Any) -> Plan:
    assert plan.generation is not None
    return replace(plan, generation=replace(plan.generation, **changes))


def test_a_second_adapter_takes_the_bases_images_from_the_cache(sd: LoadedStableDiffusion, work: Work) -> None:
    assert generate_arms(work, sd) == 12
    second, counting = another(work, sd, "second"), Counting(sd)
    assert generate_arms(second, counting) == 6  # type: ignore[arg-type]  # it stands for the base
    assert [len(call) for call in counting.calls] == [4, 2]
    one, other = finish_images(work.plan, work.folder)[:6], finish_images(second.plan, second.folder)[:6]
    assert one == other
    for record in one:
        assert (work.folder / record.path).read_bytes() == (second.folder / record.path).read_bytes()
    # Nothing changed: not one call, in the same folder and, of the base arm, in a new one.
    counting = Counting(sd)
    assert generate_arms(second, counting) == 0  # type: ignore[arg-type]  # it stands for the base
    assert generate_arms(replace(second, folder=work.folder.with_name("third")), counting, arms=["base"]) == 0  # type: ignore[arg-type]
    assert counting.calls == []


def test_without_a_cache_the_base_is_made_again(sd: LoadedStableDiffusion, work: Work) -> None:
    generate_arms(work, sd)
    assert generate_arms(replace(another(work, sd, "second"), cache=None), sd) == 12


GENERATION_CHANGES = {
    "seeds": {"heldout-mechanic-00": (1, 3), "heldout-nurse-00": (8, 9), "unrelated-car-00": (15, 16)},
    "batch_size": 3,
    "steps": 3,
    "guidance": 2.5,
    "height_px": 64,
    "width_px": 64,
    "dtype": "float16",
    "device": "cuda",
    "base_fingerprint": "0" * 64,
    "encoders_fingerprint": "0" * 64,
}
NOT_IN_THE_BASE = {
    "base": "another name",
    "adapter_sha256": "0" * 64,
    "adapter_scale": 0.5,
    "arm": {"name": "prompt_rewrite"},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GenerationPlan)])
def test_every_field_of_generation_is_a_miss_when_changed_but_for_the_adapters(work: Work, name: str) -> None:
    before = keys(work.plan)
    if name == "environment":
        return  # each of its facts is changed in the next test
    if name in NOT_IN_THE_BASE:
        assert keys(changed(work.plan, **{name: NOT_IN_THE_BASE[name]})) == before
        return
    after = keys(changed(work.plan, **{name: GENERATION_CHANGES[name]}))
    assert after[0] != before[0]
    assert name == "seeds" or not set(before) & set(after)


def facts(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places of all single facts in the environment."""
    if isinstance(node, dict):
        return [place for name, value in node.items() for place in facts(value, (*path, name))]
    return [path]


def with_fact(node: Any, path: tuple[str, ...]) -> Any:
    if not path:
        return f"not {node}"
    return {**node, path[0]: with_fact(node[path[0]], path[1:])}


def test_every_fact_of_the_environment_is_a_miss_when_changed(work: Work) -> None:
    assert work.plan.generation is not None
    environment = work.plan.generation.environment
    places = facts(environment)
    assert {("versions", name) for name in PACKAGES} <= set(places)
    assert {("sampler", "scheduler", "class"), ("processor", "num_threads"), ("sampler", "safety_checker")} <= set(
        places
    )
    before = set(keys(work.plan))
    for place in places:
        assert not before & set(keys(changed(work.plan, environment=with_fact(environment, place)))), place
    assert before == set(keys(changed(work.plan, environment=dict(reversed(environment.items())))))


def test_a_changed_text_is_a_miss_and_a_changed_name_of_the_prompt_is_none(work: Work) -> None:
    before = keys(work.plan)
    first, *rest = work.plan.prompts
    reworded = replace(work.plan, prompts=(replace(first, text=first.text + "."), *rest))
    assert keys(reworded)[0] != before[0]
    assert keys(reworded)[1] == before[1]  # the second batch has no image of that prompt
    assert keys(replace(work.plan, prompts=(replace(first, concept="engineer"), *rest), alpha=0.1)) == before


def test_the_order_in_a_batch_is_a_part_of_its_key(work: Work) -> None:
    (batch, *_) = batches(work.plan, "base")
    assert batch_key(work.plan, batch.images) != batch_key(work.plan, batch.images[::-1])


def scheduler(base: LoadedStableDiffusion) -> None:
    from diffusers import EulerDiscreteScheduler

    base.pipeline.scheduler = EulerDiscreteScheduler.from_config(base.pipeline.scheduler.config)


def spacing(base: LoadedStableDiffusion) -> None:
    base.pipeline.scheduler.register_to_config(timestep_spacing="leading")


def heads(base: LoadedStableDiffusion) -> None:
    base.pipeline.unet.register_to_config(attention_head_dim=4)


def attention(base: LoadedStableDiffusion) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    base.pipeline.unet.set_attn_processor(AttnProcessor())


def threads(base: LoadedStableDiffusion) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def matmul(base: LoadedStableDiffusion) -> None:
    torch.set_float32_matmul_precision("medium")


def version(base: LoadedStableDiffusion) -> None:
    import evenhand

    evenhand.__version__ += ".another"


@pytest.mark.parametrize("change", [scheduler, spacing, heads, attention, threads, matmul, version])
def test_a_real_change_of_the_loaded_base_or_the_machine_shows_in_the_environment(
    sd: LoadedStableDiffusion, change: Callable[[LoadedStableDiffusion], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import evenhand

    monkeypatch.setattr(evenhand, "__version__", evenhand.__version__)  # put back at the end
    before, num_threads = environment_of(sd, CPU), torch.get_num_threads()
    assert environment_of(sd, CPU) == before
    try:
        change(sd)
        assert environment_of(sd, CPU) != before
    finally:
        torch.set_num_threads(num_threads)
        torch.set_float32_matmul_precision("highest")


def test_where_a_base_lies_and_what_it_was_asked_does_not_show_in_the_environment(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    import shutil

    from tests.tiny import load_sd

    before = environment_of(sd, CPU)
    sd.encode_text(["a portrait", "a portrait of a mechanic with glasses"])
    assert environment_of(sd, CPU) == before
    copy = load_sd(Path(shutil.copytree(tiny_folder, tmp_path / "elsewhere")))
    assert environment_of(copy, CPU) == before


def damage_cut(entry: Path) -> None:
    (entry / "0001.png").write_bytes((entry / "0001.png").read_bytes()[:-1])


def damage_exchanged(entry: Path) -> None:
    Image.new("RGB", (32, 32)).save(entry / "0002.png")


def damage_lost(entry: Path) -> None:
    (entry / "0000.png").unlink()


def damage_list(entry: Path) -> None:
    (entry / "batch.json").write_text("{")


@pytest.mark.parametrize("damage", [damage_cut, damage_exchanged, damage_lost, damage_list])
def test_a_damaged_batch_is_never_served_and_is_made_again(
    sd: LoadedStableDiffusion, work: Work, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    generate_arms(work, sd, arms=["base"])
    assert work.cache is not None
    entry = work.cache / base_arms.FOLDER / keys(work.plan)[0]
    damage(entry)
    fresh = replace(work, folder=work.folder.with_name("fresh"))
    assert generate_arms(fresh, sd, arms=["base"]) == 4
    assert "damaged" in caplog.text
    expected = finish_images(work.plan, work.folder, arms=["base"])
    assert finish_images(fresh.plan, fresh.folder, arms=["base"]) == expected
    # What was made again is kept again.
    assert generate_arms(replace(work, folder=work.folder.with_name("third")), sd, arms=["base"]) == 0


def test_a_batch_that_is_only_half_stored_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before the folder gets its name: whatever was written has no name that anybody looks for."""
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            base_arms.store(tmp_path, "key", [(picture, "noise")])
    assert not base_arms.is_cached(tmp_path, "key")
    assert base_arms.fetch(tmp_path, "key", [tmp_path / "b.png"]) is None
    base_arms.store(tmp_path, "key", [(picture, "noise")])
    found = base_arms.fetch(tmp_path, "key", [tmp_path / "b.png"])
    assert found is not None
    assert found[0].noise_sha256 == "noise"
    assert (tmp_path / "b.png").read_bytes() == picture.read_bytes()


def test_a_change_in_an_evaluation_folder_does_not_reach_the_cache(sd: LoadedStableDiffusion, work: Work) -> None:
    generate_arms(work, sd, arms=["base"])
    expected = finish_images(work.plan, work.folder, arms=["base"])
    for record in expected:
        Image.new("RGB", (32, 32)).save(work.folder / record.path)
    fresh = replace(work, folder=work.folder.with_name("fresh"))
    assert generate_arms(fresh, sd, arms=["base"]) == 0
    assert finish_images(fresh.plan, fresh.folder, arms=["base"]) == expected
