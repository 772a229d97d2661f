"""Baselines and stacks through evaluate/shift.py, as a person runs it, on a tiny real pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from evenhand.analysis.comparison import compare
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.files import read_jsonl
from tests.programs.test_evaluate import EXIT_USER_ERROR, run, shift_overrides
from tests.tiny_evaluation import saved_adapter


def overrides(tiny_folder: Path, cwd: Path, *more: str) -> list[str]:
    """Those of a small evaluation, without its adapter."""
    given = [text for text in shift_overrides(tiny_folder, cwd, cwd) if not text.startswith("adapter=")]
    return [*given, *more]


def test_a_baseline_is_measured_from_plan_to_report_with_the_bases_cached_images(
    tiny_folder: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "shift.py", *overrides(tiny_folder, tmp_path, "arm=prompt_rewrite", "run_name=a"), cwd=tmp_path
    )
    assert code in (0, 3), err  # a guard may fail on so few images
    folder = tmp_path / "runs" / "shift" / "a"
    assert out.strip().endswith("report.html")
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["arms"] == ["base", "prompt_rewrite"]
    assert set(plan["generation"]["arm"]["instructions"]) == {"heldout-mechanic-00", "heldout-nurse-00"}
    images = {(row["arm"], row["prompt_id"], row["seed"]): row for row in read_jsonl(folder / "images.jsonl")}
    assert len(images) == 24
    for (arm, prompt, seed), row in images.items():
        if arm == "prompt_rewrite":
            base = images["base", prompt, seed]
            assert row["noise_sha256"] == base["noise_sha256"]
            assert (row["sha256"] == base["sha256"]) == (not prompt.startswith("heldout"))
    results = json.loads((folder / "results.json").read_text())
    assert results["arms"] == ["base", "prompt_rewrite"]
    assert "instructions" not in results["reproduction"]["plan"]["generation"]["arm"]
    snippet = yaml.safe_load((folder / "card_snippet.yaml").read_text())
    assert snippet["model-index"][0]["name"] == "prompt_rewrite"


def test_a_stack_is_measured_and_named_in_plan_and_card(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    for name, strength in (("one", 3.0), ("two", 1.0)):
        saved_adapter(sd, tmp_path / name, strength=strength)
    stack = f"adapters=[{{path: {tmp_path / 'one'}, weight: 0.5}}, {{path: {tmp_path / 'two'}, weight: 1.0}}]"
    code, _, err = run("shift.py", *overrides(tiny_folder, tmp_path, stack, "run_name=s"), cwd=tmp_path)
    assert code in (0, 3), err
    folder = tmp_path / "runs" / "shift" / "s"
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["arms"] == ["base", "adapted"]
    assert [row["weight"] for row in plan["generation"]["arm"]["adapters"]] == [0.5, 1.0]
    (result, *_) = yaml.safe_load((folder / "card_snippet.yaml").read_text())["model-index"][0]["results"]
    assert [row["weight"] for row in result["dataset"]["args"]["arm"]["adapters"]] == [0.5, 1.0]
    inputs = json.loads((folder / "provenance.json").read_text())["inputs"]
    assert set(inputs) == {"adapter_1", "adapter_2"}


def test_an_adapter_beside_a_baseline_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    code, _, err = run(
        "shift.py", *overrides(tiny_folder, tmp_path, "arm=prompt_rewrite", "adapter=some"), cwd=tmp_path
    )
    assert code == EXIT_USER_ERROR
    assert "adapter and arm=prompt_rewrite are both given" in err


def test_an_adapter_and_a_baseline_are_compared_pair_by_pair_on_the_same_noise(
    sd: LoadedStableDiffusion, tiny_folder: Path, tmp_path: Path
) -> None:
    """Differences are those of both runs' own shifts, since both have the same base; a run and itself differ by 0."""
    adapter = saved_adapter(sd, tmp_path / "adapter", strength=3.0)
    for name, second in (("trained", f"adapter={adapter}"), ("told", "arm=prompt_rewrite")):
        code, _, err = run("shift.py", *overrides(tiny_folder, tmp_path, second, f"run_name={name}"), cwd=tmp_path)
        assert code in (0, 3), err
    trained, told = (tmp_path / "runs" / "shift" / name for name in ("trained", "told"))
    code, out, err = run("compare.py", f"run_a={trained}", f"run_b={told}", cwd=tmp_path)
    assert code == 0, err
    folder = tmp_path / "runs" / "compare" / "trained-told"
    content = json.loads((folder / "comparison.json").read_text())
    assert out.startswith(content["answer"])
    assert not [note for note in content["notes"] if "not the same file" in note]
    shifts = {}
    for name, place in (("a", trained), ("b", told)):
        rows = json.loads((place / "results.json").read_text())["estimates"]
        (row,) = [
            row
            for row in rows
            if (row["name"], row["suite"], row["arm"], row["concept"]) == ("gap", "heldout", "shift", None)
        ]
        shifts[name] = row["value"]
    (gap,) = [row for row in content["differences"] if (row["name"], row["suite"]) == ("gap", "heldout")]
    assert (gap["shift_a"], gap["shift_b"]) == pytest.approx((shifts["a"], shifts["b"]))
    assert gap["value"] == pytest.approx(shifts["b"] - shifts["a"])
    assert gap["n_prompts"] == 2
    page = (folder / "comparison.md").read_text()
    assert "adapter `" in page.split("- Run b:")[0]
    assert "prompt_rewrite" in page.split("- Run b:")[1]
    assert (content["run_a"]["arm"], content["run_b"]["arm"]) == ("adapted", "prompt_rewrite")
    assert {row.value for row in compare(told, told).differences} <= {0.0, None}
