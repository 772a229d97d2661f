"""The model card snippet is what Hugging Face's own parser takes, with intervals in its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from evenhand.report.render import write_report
from tests.report.full_folder import full_folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = full_folder(tmp_path_factory.mktemp("card") / "run")
    write_report(folder)
    return folder


def snippet(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "card_snippet.yaml").read_text())
    return content


def eval_results(folder: Path) -> list[EvalResult]:
    _, results = model_index_to_eval_results(snippet(folder)["model-index"])
    return results


def test_a_model_card_takes_the_snippet_as_its_header(reported: Path) -> None:
    card = ModelCardData(**snippet(reported), ignore_metadata_errors=False)
    assert card.base_model == "somebody/some-base"
    assert card.eval_results is not None
    assert len(card.eval_results) == len(eval_results(reported)) > 10
    assert "model-index" in yaml.safe_load(card.to_yaml())


def test_the_headline_has_its_interval_in_the_value_and_what_it_rests_on_beside_it(reported: Path) -> None:
    rows = json.loads((reported / "results.json").read_text())["estimates"]
    scope = {"name": "gap", "suite": "heldout", "attribute": "presentation", "arm": "shift"}
    (gap,) = [each for each in rows if {key: each[key] for key in scope} == scope]
    (found,) = [e for e in eval_results(reported) if (e.metric_type, e.dataset_config) == ("gap_change", "heldout")]
    assert found.metric_value == f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f}), 95 % interval"
    assert found.metric_args is not None
    assert found.metric_args["n_prompts"] == gap["n_prompts"]
    assert found.metric_args["n_images"] == gap["n_images"]


def test_suite_base_and_scale_are_named(reported: Path) -> None:
    first = eval_results(reported)[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_revision) == ("some_suite", "heldout", "3")
    assert first.dataset_args is not None
    assert first.dataset_args["base"] == "somebody/some-base"
    assert first.dataset_args["adapter_scale"] == 1.0
    assert first.dataset_args["plan_sha256"] == json.loads((reported / "results.json").read_text())["plan_sha256"]


def test_every_guard_is_in_the_card_whether_it_held_or_failed(reported: Path) -> None:
    guards = json.loads((reported / "results.json").read_text())["guards"]
    assert {guard["passed"] for guard in guards} == {True, False}
    shown = [(e.metric_type, e.dataset_config, str(e.metric_value)[-6:]) for e in eval_results(reported)]
    for guard in guards:
        end = ": held" if guard["passed"] else "FAILED"
        assert (f"guard_{guard['name']}", guard["suite"], end) in shown


def test_it_says_what_it_is_not_for(reported: Path) -> None:
    assert "not for judging real people" in (reported / "card_snippet.yaml").read_text().split("\n", 2)[1]
    assert all("not for judging real people" in str(result.task_name) for result in eval_results(reported))


def test_a_base_that_is_no_hub_id_is_not_given_as_one(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text())
    plan["generation"]["base"] = "tinytown"
    (folder / "plan.json").write_text(json.dumps(plan))
    write_report(folder)
    assert "base_model" not in snippet(folder)
    assert eval_results(folder)[0].dataset_args["base"] == "tinytown"  # type: ignore[index]


def test_a_suite_without_a_version_is_told_apart_by_its_plan(tmp_path: Path) -> None:
    folder = full_folder(tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text())
    del plan["suite"]
    (folder / "plan.json").write_text(json.dumps(plan))
    write_report(folder)
    first = eval_results(folder)[0]
    assert first.dataset_revision == json.loads((folder / "results.json").read_text())["plan_sha256"]
