"""Adapters of other origin, stacks and edited UNets as the second arm, on a real tiny pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evenhand.adapters import lora
from evenhand.adapters.foreign import diffusers_name, read_any
from evenhand.adapters.kohya import kohya_bytes
from evenhand.adapters.settings import LoraSettings
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.plan import Plan
from evenhand.generation.arms import Work
from evenhand.generation.check import check_adapter
from evenhand.generation.given import given_arm
from evenhand.generation.prompt_rewrite import PromptRewrite
from evenhand.generation.second_arm import SecondArm
from evenhand.honesty.small_run import untrained_card
from tests.tiny import randomize
from tests.tiny_evaluation import saved_adapter, tiny_plan


def adapter(base: LoadedStableDiffusion, folder: Path, *, seed: int, text_encoder: str = "none") -> Path:
    """A random adapter with alpha unlike its rank; its folder."""
    settings = LoraSettings(rank=2, alpha=6.0, targets="all", text_encoder=text_encoder)
    made = lora.attach(base, settings, seed=seed)
    randomize(made, seed=seed)
    made.save(folder, replace(untrained_card(base.name, "tiny"), name=folder.name))
    lora.detach(base)
    return folder


def arm_of(*adapters: dict[str, object], path: Path | None = None, check_base: bool = True) -> SecondArm:
    return given_arm(arm=None, adapter=path, adapters=adapters, check_base=check_base).arm


def pixels(base: LoadedStableDiffusion, arm: SecondArm, plan: Plan, *, scale: float = 1.0) -> torch.Tensor:
    """The first two images of the plan."""
    assert plan.generation is not None
    images = [(prompt, plan.generation.seeds[prompt.id][0]) for prompt in plan.prompts[:2]]
    with arm.applied(base, plan, scale=scale) as make:
        raw = [made.image.tobytes() for made in make(images)]
    return torch.stack([torch.frombuffer(bytearray(each), dtype=torch.uint8).int() for each in raw])


def plan_on(base: LoadedStableDiffusion, tmp_path: Path) -> Plan:
    return tiny_plan(base, saved_adapter(base, tmp_path / "any", strength=0.0))


def unchanged(base: LoadedStableDiffusion, arm: SecondArm, tmp_path: Path) -> bool:
    """Whether scale 0 is the base bit for bit, and the base is afterwards what it was; the first is checked within."""
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    check_adapter(Work(plan=plan_on(base, tmp_path), folder=tmp_path / "zero", arm=arm), base)
    after = base.unet.state_dict()
    return list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_a_kohya_file_makes_the_images_of_the_adapter_that_it_was_made_from(
    sd: LoadedStableDiffusion, tmp_path: Path
) -> None:
    """evenhand's own export, which ComfyUI reads; alpha is not the rank, so a lost alpha would show."""
    folder = adapter(sd, tmp_path / "own", seed=1, text_encoder="attention")
    file = tmp_path / "kohya.safetensors"
    file.write_bytes(kohya_bytes(folder))
    plan = plan_on(sd, tmp_path)
    own, foreign = pixels(sd, arm_of(path=folder), plan), pixels(sd, arm_of(path=file), plan)
    base = pixels(sd, arm_of(path=folder), plan, scale=0.0)
    assert (own - base).abs().max() > 3
    assert (own - foreign).abs().max() <= 1
    assert unchanged(sd, arm_of(path=file), tmp_path)


def test_a_kohya_file_without_alpha_has_its_rank_as_alpha_and_odd_keys_are_named(
    sd: LoadedStableDiffusion, tmp_path: Path
) -> None:
    module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{module}.lora_down.weight": torch.ones(4, 32), f"{module}.lora_up.weight": torch.ones(64, 4)}
    save_file(tensors, tmp_path / "plain.safetensors")
    content = read_any(tmp_path / "plain.safetensors", sd)
    (module_name,) = content.placements["unet"].ranks
    assert module_name == "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    assert content.placements["unet"].scale(module_name) == 1.0
    with pytest.raises(ValueError, match="does not say which base it belongs to .check_base=false"):
        pixels(sd, arm_of(path=tmp_path / "plain.safetensors"), plan_on(sd, tmp_path))
    for odd, message in (
        ("lora_unet_nowhere.lora_up.weight", "unet has no module for lora_unet_nowhere"),
        (f"{module}.hada_w1_a", "is no key of a plain LoRA"),
    ):
        save_file({**tensors, odd: torch.ones(4, 4)}, tmp_path / "odd.safetensors")
        with pytest.raises(ValueError, match=message):
            read_any(tmp_path / "odd.safetensors", sd)


@pytest.mark.parametrize(
    ("original", "wanted"),
    [  # as SDXL's two checkpoints name the same tensors; layers_per_block is 2
        (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        ),
        ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
        ("input_blocks_1_0_in_layers_2", "down_blocks_0_resnets_0_conv1"),
        ("input_blocks_8_0_emb_layers_1", "down_blocks_2_resnets_1_time_emb_proj"),
        ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
        ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
        ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
        ("output_blocks_5_1_proj_out", "up_blocks_1_attentions_2_proj_out"),
        ("output_blocks_6_0_skip_connection", "up_blocks_2_resnets_0_conv_shortcut"),
        ("down_blocks_1_attentions_0_proj_in", "down_blocks_1_attentions_0_proj_in"),
    ],
)
def test_names_of_sdxls_original_checkpoint_are_understood(original: str, wanted: str) -> None:
    assert diffusers_name(original, 2) == wanted


def test_a_stack_adds_what_its_adapters_add_and_a_weight_of_0_takes_one_out(
    sd: LoadedStableDiffusion, tmp_path: Path
) -> None:
    """Held against PEFT's own sum: both weights put into the layers of one base by hand."""
    one, two = (adapter(sd, tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"), start=1))
    plan = plan_on(sd, tmp_path)
    stack = arm_of({"path": str(one), "weight": 0.5}, {"path": str(two), "weight": 1})
    together = pixels(sd, stack, plan)
    before = {name: value.clone() for name, value in sd.unet.state_dict().items()}
    with torch.no_grad():
        for folder, weight in ((one, 0.5), (two, 1.0)):
            content = read_any(folder, sd)
            for module, scale in ((m, content.placements["unet"].scale(m)) for m in content.placements["unet"].ranks):
                down, up = (content.tensors["unet", module, f"lora_{end}.weight"] for end in "AB")
                layer = sd.unet.get_submodule(module).weight
                if down.dim() == 4 and down.shape[2:] != (1, 1):
                    change = torch.einsum("or,rikl->oikl", up.flatten(1), down)
                else:
                    change = (up.flatten(1) @ down.flatten(1)).view(layer.shape)
                layer += weight * scale * change
    by_hand = pixels(sd, PromptRewrite(suites=[], attributes={}), plan, scale=0.0)
    sd.unet.load_state_dict(before)
    alone = pixels(sd, arm_of(path=two), plan)
    without = pixels(sd, arm_of({"path": str(one), "weight": 0}, {"path": str(two), "weight": 1}), plan)
    assert (together - by_hand).abs().max() <= 1
    assert (without - alone).abs().max() <= 1
    assert (together - alone).abs().max() > 3
    assert unchanged(sd, stack, tmp_path)


def test_a_plan_names_the_adapters_of_a_stack_with_their_weights(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    one, two = (adapter(sd, tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"), start=1))
    given = given_arm(
        arm=None,
        adapter=None,
        adapters=[{"path": str(one), "weight": 0.5}, {"path": str(two), "weight": 1}],
        check_base=True,
    )
    facts = given.arm.facts(None)  # type: ignore[arg-type]  # what is asked does not matter to a stack
    assert [(row["name"], row["weight"]) for row in facts["adapters"]] == [("one", 0.5), ("two", 1.0)]
    assert len({row["sha256"] for row in facts["adapters"]}) == 2
    assert list(given.inputs) == ["adapter_1", "adapter_2"]


def test_an_edited_unet_replaces_the_bases_weights_by_its_own(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    """Half way at scale 0.5; held against a base whose weights were changed by hand."""
    names = [name for name in sd.unet.state_dict() if name.endswith("attn2.to_k.weight")]
    before = {name: sd.unet.state_dict()[name].clone() for name in names}
    edited = {
        name: value + 3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        for name, value in before.items()
    }
    save_file(edited, tmp_path / "some.safetensors")
    save_file({f"unet.{name}": value for name, value in edited.items()}, tmp_path / "prefixed.safetensors")
    plan, plain = plan_on(sd, tmp_path), PromptRewrite(suites=[], attributes={})
    arm = arm_of(path=tmp_path / "some.safetensors", check_base=False)
    found = {scale: pixels(sd, arm, plan, scale=scale) for scale in (0.0, 0.5, 1.0)}
    for scale in (0.5, 1.0):
        with torch.no_grad():
            for name in names:
                sd.unet.state_dict()[name].copy_(before[name] + scale * (edited[name] - before[name]))
        assert (found[scale] - pixels(sd, plain, plan, scale=0.0)).abs().max() <= 1
    sd.unet.load_state_dict(before, strict=False)
    assert (found[1.0] - found[0.0]).abs().max() > 3
    assert torch.equal(pixels(sd, arm_of(path=tmp_path / "prefixed.safetensors", check_base=False), plan), found[1.0])
    assert unchanged(sd, arm, tmp_path)


def test_an_edited_unet_of_a_pipelines_folder_is_found_and_its_own_base_changes_nothing(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    plan = plan_on(sd, tmp_path)
    for path in (tiny_folder, tiny_folder / "unet"):
        arm = arm_of(path=path, check_base=False)
        assert torch.equal(pixels(sd, arm, plan), pixels(sd, arm, plan, scale=0.0))


def test_what_cannot_be_measured_is_refused(sd: LoadedStableDiffusion, tmp_path: Path) -> None:
    one = adapter(sd, tmp_path / "one", seed=1)
    save_file({"conv_in.weight": torch.ones(2, 2)}, tmp_path / "odd.safetensors")
    (tmp_path / "some.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="adapters is for two or more, got 1"):
        arm_of({"path": str(one), "weight": 1})
    with pytest.raises(ValueError, match=r"adapters\[0\] must have a path and a weight"):
        arm_of({"path": str(one)}, {"path": str(one), "weight": 1})
    for weight in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"adapters\[1\].weight must be a finite number, got {weight}"):
            arm_of({"path": str(one), "weight": 1}, {"path": str(one), "weight": weight})
    with pytest.raises(ValueError, match=r"adapters\[1\].weight must be a finite number, got 'much'"):
        arm_of({"path": str(one), "weight": 1}, {"path": str(one), "weight": "much"})
    with pytest.raises(ValueError, match="is a pickle, which runs what is in it"):
        arm_of(path=tmp_path / "some.pt")
    with pytest.raises(ValueError, match="does not say what base it was edited from; check_base=false"):
        arm_of(path=tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"conv_in.weight has shape \(2, 2\) instead of"):
        pixels(sd, arm_of(path=tmp_path / "odd.safetensors", check_base=False), plan_on(sd, tmp_path))
    with pytest.raises(ValueError, match="adapter and arm=prompt_rewrite are both given"):
        given_arm(arm=PromptRewrite(suites=[], attributes={}), adapter=one, adapters=[], check_base=True)
    with pytest.raises(ValueError, match="adapter has no value; set adapter="):
        arm_of()
