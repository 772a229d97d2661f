"""A step is run once, and again when what it was made from has changed; what is missing is told with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evenhand.compose import compose_config
from evenhand.files import read_json, sha256_file, write_json_atomic
from evenhand.launch import LOG_FILE
from evenhand.method_benchmark.plan import Benchmark, Run, Step
from evenhand.method_benchmark.running import FAILURE_FILE, check_steps, note_of, run_step, what_is_missing
from evenhand.processes import ChildCrashed
from tests.method_benchmark.made import the_benchmark

METHOD_ALONE = {"methods": ("curated",), "seeds": (0,)}


def a_step(folder: Path, *overrides: str) -> Step:
    """A build of renders: seconds, and no model."""
    data = folder / "set"
    few = ("recipe=tinytown_renders", "suite.concepts.train=[mechanic]", "recipe.plan.images_per_concept=2")
    none = ("recipe.preserve.captions=[]", "recipe.preserve.empty=0", "device=cpu")
    return Step(
        program="data_recipes/build",
        overrides=(f"run_folder={data}", *few, *none, *overrides),
        folder=folder,
        done=data / "certificate.json",
        label="a build",
    )


def test_a_step_is_run_once_and_again_when_its_result_is_gone_and_a_mistake_is_told(tmp_path: Path) -> None:
    step = a_step(tmp_path)
    run_step(step)
    assert read_json(note_of(step))["exit_code"] == 0
    log = (tmp_path / LOG_FILE).read_text()
    run_step(step)
    assert (tmp_path / LOG_FILE).read_text() == log  # nothing was started
    step.done.unlink()
    note_of(step).unlink()
    (tmp_path / "set" / "provenance.json").unlink()
    run_step(step)
    assert step.done.is_file()
    with pytest.raises(ValueError, match="images_per_concept must be >= 1"):
        run_step(a_step(tmp_path / "other", "recipe.plan.images_per_concept=0"))
    with pytest.raises(ChildCrashed, match="it ended well, and .* is not there"):
        run_step(replace(a_step(tmp_path / "third"), done=tmp_path / "nowhere"))


def test_a_step_is_run_again_when_the_file_that_it_was_made_from_is_another(tmp_path: Path) -> None:
    """Else an adapter that was trained anew would keep the measurement of the one before."""
    weights = tmp_path / "weights"
    weights.write_text("one")
    step = replace(a_step(tmp_path), needs=weights)
    run_step(step)
    log = (tmp_path / LOG_FILE).read_text()
    run_step(step)
    assert (tmp_path / LOG_FILE).read_text() == log
    weights.write_text("other")
    run_step(step)
    assert (tmp_path / LOG_FILE).read_text() != log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"of_method": {"curated": ["train.stepps=7"]}}, "train occupations, curated, seed 0: .*stepps"),
        ({"of_method": {"occupations/curated": ["optim=nothing"]}}, "train occupations, curated, seed 0: .*nothing"),
        ({"build": ("recipe.plan.images=3",)}, "build the set of occupations, seed 0: .*images"),
        ({"evaluate": ("tier=huge",)}, "measure occupations, curated, seed 0: .*huge"),
    ],
)
def test_an_override_that_a_program_would_refuse_ends_before_the_first_is_started(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_steps(the_benchmark(tmp_path, **METHOD_ALONE, **changes))
    check_steps(the_benchmark(tmp_path, **METHOD_ALONE))
    assert list(tmp_path.iterdir()) == []


def finished(benchmark: Benchmark, run: Run) -> None:
    """The files that finished steps leave, without the steps."""
    for step in benchmark.steps(run):
        step.done.parent.mkdir(parents=True, exist_ok=True)
        step.done.write_text("{}")
        if step.needs is not None:
            step.needs.write_text("something")
    for step in benchmark.steps(run):
        needs = None if step.needs is None else sha256_file(step.needs)
        note = {"overrides": list(step.overrides), "needs": needs, "exit_code": 0, "seconds": 1.0}
        write_json_atomic(note_of(step), note)


def test_what_is_finished_is_not_missing_and_everything_else_is_with_its_reason(tmp_path: Path) -> None:
    benchmark = the_benchmark(tmp_path)
    run = benchmark.runs[0]
    assert "not done yet: build the set" in str(what_is_missing(benchmark, run))
    finished(benchmark, run)
    assert what_is_missing(benchmark, run) is None
    others = the_benchmark(tmp_path, of_method={"curated": ["train.steps=7"]})
    told = what_is_missing(others, run)
    assert told is not None
    assert "it was done with other overrides, nothing instead of train.steps=7" in told
    weights = benchmark.steps(run)[-1].needs
    assert weights is not None
    weights.write_text("trained again")
    assert "it was done with another" in str(what_is_missing(benchmark, run))
    write_json_atomic(run.folder / FAILURE_FILE, {"error": "no luck"})
    assert what_is_missing(benchmark, run) == "no luck"


@pytest.mark.slow
def test_every_step_of_the_benchmark_composes() -> None:
    made = compose_config("benchmark_methods", ["experiment=benchmark"]).construct(Benchmark)
    assert isinstance(made, Benchmark)
    check_steps(made)
