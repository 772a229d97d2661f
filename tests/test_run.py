"""A run folder belongs to one config and its inputs: the same command resumes, another one is refused."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import evenhand
from evenhand.files import sha256_file, sha256_json
from evenhand.run import Run, config_sha256, git_state, package_versions

CONFIG: dict[str, Any] = {
    "experiment": "demo",
    "run_name": "curated-s0",
    "seed": 0,
    "tracker": {"_target_": "evenhand.trackers.JsonlOnly"},
    "train": {"steps": 100, "log_every": 10, "betas": [0.9, 0.99]},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.txt"
    file.write_text("one")
    return file


def open_run(folder: Path, data: Path, config: dict[str, Any] | None = None, **more: Any) -> Run:
    return Run.open(folder, config=config or CONFIG, seeds={"train": 0}, inputs={"data": data}, **more)


def changed(dotted: str, value: object) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *path, last = dotted.split(".")
    node = config
    for name in path:
        node = node[name]
    node[last] = value
    return config


def test_provenance_says_what_made_the_run(tmp_path: Path, data: Path) -> None:
    run = open_run(tmp_path / "run", data, device="cuda:0", world_size=2)
    run.finish()
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["config"] == CONFIG
    assert provenance["inputs"]["data"] == {"path": data.as_posix(), "sha256": sha256_file(data)}
    assert provenance["seeds"] == {"train": 0}
    assert (provenance["device"], provenance["world_size"]) == ("cuda:0", 2)
    assert provenance["versions"]["evenhand"] == evenhand.__version__
    assert {"torch", "diffusers", "numpy"} <= set(provenance["versions"])
    assert provenance["started"] <= provenance["finished"]
    assert provenance["wall_seconds"] >= 0


def test_the_digest_is_of_what_can_change_a_result() -> None:
    """Against the canonical JSON of the two keys that are left, written out by hand."""
    assert config_sha256(CONFIG) == sha256_json({"seed": 0, "train": CONFIG["train"]})
    left = {"seed": 0, "train": {"steps": 100, "betas": [0.9, 0.99]}}
    names = ("experiment", "run_name", "tracker", "train.log_every")
    assert config_sha256(CONFIG, names) == sha256_json(left)


def test_the_same_config_resumes_and_keeps_the_start(tmp_path: Path, data: Path) -> None:
    started = open_run(tmp_path / "run", data).provenance["started"]
    open_run(tmp_path / "run", data, changed("tracker", {"_target_": "evenhand.trackers.TensorBoard"})).finish()
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["started"] == started
    assert [session["wall_seconds"] is None for session in provenance["sessions"]] == [True, False]
    assert provenance["wall_seconds"] == provenance["sessions"][1]["wall_seconds"]


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("seed", 1, r"seed: 0 -> 1"),
        ("train.steps", 200, r"train\.steps: 100 -> 200"),
        ("train.betas", [0.9, 0.95], r"train\.betas\.1: 0\.99 -> 0\.95"),
        ("train.warmup", 5, r"train\.warmup: absent -> 5"),
    ],
)
def test_another_config_is_refused_with_the_keys_that_differ(
    tmp_path: Path, data: Path, dotted: str, value: object, message: str
) -> None:
    open_run(tmp_path / "run", data).finish()
    before = (tmp_path / "run" / "provenance.json").read_bytes()
    with pytest.raises(ValueError, match=message + r".*choose another run_name, or remove the folder"):
        open_run(tmp_path / "run", data, changed(dotted, value))
    assert (tmp_path / "run" / "provenance.json").read_bytes() == before


def test_a_long_list_of_differences_is_cut(tmp_path: Path, data: Path) -> None:
    open_run(tmp_path / "run", data)
    with pytest.raises(ValueError, match=r"and 4 more\)"):
        open_run(tmp_path / "run", data, {**CONFIG, **{f"key{index}": index for index in range(10)}})


def test_another_input_is_refused(tmp_path: Path, data: Path) -> None:
    open_run(tmp_path / "run", data)
    data.write_text("two")
    with pytest.raises(ValueError, match=r"another data \(.*data.txt has changed since\)"):
        open_run(tmp_path / "run", data)


def test_a_missing_input_is_refused_and_claims_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input not found"):
        open_run(tmp_path / "run", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_other_ranks_decide_alike_and_write_nothing(tmp_path: Path, data: Path) -> None:
    run = open_run(tmp_path / "run", data, is_main=False)
    run.finish()
    assert not (tmp_path / "run").exists()
    open_run(tmp_path / "run", data)
    with pytest.raises(ValueError, match="another config"):
        open_run(tmp_path / "run", data, changed("seed", 1), is_main=False)


def test_two_stages_share_a_folder_under_two_names(tmp_path: Path, data: Path) -> None:
    open_run(tmp_path / "run", data)
    open_run(tmp_path / "run", data, changed("seed", 1), provenance_name="provenance.report.json")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"provenance.json", "provenance.report.json"}


def test_git_state_is_the_checkouts() -> None:
    """Against git itself; a checkout without a commit, or no checkout at all, has none."""
    root = Path(evenhand.__file__).parents[1]
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = done.stdout.strip() if done.returncode == 0 else None
    assert git_state()["commit"] == commit
    assert (git_state()["dirty"] is None) == (commit is None)


def test_versions_are_of_required_packages_and_not_of_extras() -> None:
    versions = package_versions()
    assert "wandb" not in versions
    assert None not in versions.values()
