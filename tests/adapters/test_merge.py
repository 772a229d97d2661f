"""The sum of adapters as one file, against diffusers' ``set_adapters`` with the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from evenhand.adapters.file import read_adapter
from evenhand.adapters.lora import detach, load
from evenhand.adapters.merge import merge, merge_folders
from evenhand.evaluation.overlap import training_captions, write_captions
from evenhand.interfaces import LoadedBase
from tests.adapters.test_lora import CARD, prediction
from tests.adapters.variants import trained
from tests.tiny import alike, randomize

SCRIPT = Path(__file__).parents[2] / "scripts" / "merge_adapters.py"


def saved(base: LoadedBase, folder: Path, name: str, *, seed: int) -> Path:
    adapter = trained(base, name)
    randomize(adapter, seed=seed)
    adapter.save(folder, CARD)
    detach(base)
    return folder


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")  # two adapters are meant
@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ("plain", "plain", [1.0, 1.0]),
        ("all_layers", "rslora", [0.7, -0.4]),
        ("text_rslora_patterns", "text", [1.0, 0.5]),
    ],
)
def test_the_merged_adapter_equals_the_weighted_sum_of_its_parts(
    request: pytest.FixtureRequest, tmp_path: Path, first: str, second: str, weights: list[float], family: str
) -> None:
    base = request.getfixturevalue(family)
    before = prediction(base)
    folders = [saved(base, tmp_path / f"{i}", name, seed=i) for i, name in enumerate((first, second))]
    for name, folder in zip("ab", folders, strict=True):
        base.pipeline.load_lora_weights(folder, adapter_name=name)
    base.pipeline.set_adapters(["a", "b"], weights)
    wanted = prediction(base)
    base.pipeline.unload_lora_weights()
    merge_folders(folders, weights, tmp_path / "merged", name="both", version="0")
    load(base, tmp_path / "merged")
    assert alike(prediction(base), wanted)
    assert (wanted - before).abs().max() > 0.01


def test_ranks_add_up_and_the_sum_is_exact_where_a_linear_mixture_is_far_off(sd, tmp_path) -> None:
    contents = [read_adapter(saved(sd, tmp_path / str(seed), "plain", seed=seed)) for seed in (1, 2)]
    merged = merge(contents, [1.0, 0.5])
    module = next(iter(merged.placements["unet"].ranks))
    assert set(merged.placements["unet"].ranks.values()) == {8}
    a, b = ([content.tensors["unet", module, f"lora_{side}.weight"].double() for content in contents] for side in "AB")
    wanted = 6.0 / 4 * (b[0] @ a[0] + 0.5 * b[1] @ a[1])
    up, down = (merged.tensors[f"unet.{module}.lora_{side}.weight"].double() for side in "BA")
    assert merged.placements["unet"].scale(module) == 1.0
    assert (up @ down - wanted).norm() < 1e-6 * wanted.norm()
    linear = 6.0 / 4 * (b[0] + 0.5**0.5 * b[1]) @ (a[0] + 0.5**0.5 * a[1])
    assert (linear - wanted).norm() > 0.5 * wanted.norm()


@pytest.mark.parametrize(
    ("how", "message"),
    [("linear", "how must be cat, got 'linear': it adds A and B apart"), ("ties", "how must be cat, got 'ties'$")],
)
def test_another_way_is_refused_with_the_reason(sd, tmp_path, how, message) -> None:
    contents = [read_adapter(saved(sd, tmp_path, "plain", seed=0))] * 2
    with pytest.raises(ValueError, match=message):
        merge(contents, [1.0, 1.0], how=how)


def test_what_does_not_belong_together_is_refused(sd, sd_epsilon, tmp_path) -> None:
    plain = read_adapter(saved(sd, tmp_path / "a", "plain", seed=0))
    other = read_adapter(saved(sd_epsilon, tmp_path / "b", "plain", seed=0))
    dora = read_adapter(saved(sd, tmp_path / "c", "dora", seed=0))
    for contents, weights, message in (
        ([plain], [1.0], "two adapters or more"),
        ([plain, plain], [1.0], "got 2 adapters and 1 weights"),
        ([plain, plain], [1.0, float("nan")], "weights must be finite"),
        ([plain, other], [1.0, 1.0], "are of different bases"),
        ([plain, dora], [1.0, 1.0], "is a DoRA"),
    ):
        with pytest.raises(ValueError, match=message):
            merge(contents, weights)


def test_the_program_writes_a_folder_that_says_what_it_is_made_of(sd, tmp_path) -> None:
    for seed, caption in enumerate(("a mechanic", "a nurse")):
        saved(sd, tmp_path / str(seed), "plain", seed=seed)
        write_captions(tmp_path / str(seed), {"train": [caption]})
    arguments = [sys.executable, str(SCRIPT), "adapters=['0', '1']", "weights=[1, 0.5]", "to=merged", "name=both"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("merged: merged")
    with safe_open(tmp_path / "merged" / "pytorch_lora_weights.safetensors", framework="pt") as opened:
        header = opened.metadata()
    sources = json.loads(header["evenhand.merged_from"])
    assert [(source["name"], source["weight"]) for source in sources] == [(CARD.name, 1.0), (CARD.name, 0.5)]
    assert header["evenhand.base_fingerprint"] == sd.fingerprint
    assert json.loads((tmp_path / "merged" / "card.json").read_text())["merged_from"] == sources
    assert "The weighted sum of 2 debiasing adapters" in (tmp_path / "merged" / "README.md").read_text()
    captions = training_captions(tmp_path / "merged")
    assert captions is not None
    assert {captions.split_of("A nurse."), captions.split_of("a mechanic"), captions.split_of("a cat")} == {
        "train",
        None,
    }
    again = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "to=merged exists already" in again.stderr


def test_a_sum_has_every_reader_that_had_a_say_in_one_of_its_parts(sd: LoadedBase, tmp_path: Path) -> None:
    folders = []
    for number, readers in enumerate([("b",), ("a", "b"), ()]):
        adapter = trained(sd, "plain")
        adapter.save(tmp_path / str(number), replace(CARD, training_readers=readers))
        detach(sd)
        folders.append(tmp_path / str(number))
    merge_folders(folders, [1.0, 1.0, 1.0], tmp_path / "all", name="all", version="0")
    assert json.loads((tmp_path / "all" / "card.json").read_text())["training_readers"] == ["a", "b"]
    merge_folders([folders[2]] * 2, [1.0, 1.0], tmp_path / "none", name="none", version="0")
    assert json.loads((tmp_path / "none" / "card.json").read_text())["training_readers"] == []
