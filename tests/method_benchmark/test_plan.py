"""What a benchmark would run, from the choices on the disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evenhand.compose import compose_config
from evenhand.method_benchmark.plan import Benchmark, cases, choices


def from_config(*overrides: str) -> Benchmark:
    config = compose_config("benchmark_methods", [*overrides])
    built = config.construct(Benchmark)
    assert isinstance(built, Benchmark)
    return built


def test_every_method_of_the_disk_runs_with_every_seed_and_every_baseline_once() -> None:
    runs = from_config("cases=[occupations,market]").runs
    methods = {run.competitor.name for run in runs if run.seed is not None}
    baselines = [run.competitor.name for run in runs if run.seed is None]
    assert methods == set(choices("method"))
    assert sorted(baselines) == sorted(2 * [name for name in choices("arm") if name != "adapted"])
    assert len({run.folder for run in runs}) == len(runs) == 2 * (3 * len(methods) + len(set(baselines)))


def test_few_seeds_of_all_come_before_many_of_one() -> None:
    seeds = [run.seed for run in from_config("arms=[none]").runs]
    assert seeds == sorted(seeds, key=lambda seed: -1 if seed is None else seed)


def test_methods_of_a_seed_share_their_set_and_measure_on_the_same_noise() -> None:
    made = from_config("methods=[curated,distill]", "arms=[none]", "seeds=[3]", "evaluation_seed=7")
    first, second = [made.steps(run) for run in made.runs]
    assert first[0] == replace(second[0], label=first[0].label)
    assert "seed=3" in first[1].overrides
    assert "seed=7" in first[2].overrides
    assert f"data={first[0].folder}" in first[1].overrides


def test_overrides_of_a_competitor_come_last_and_those_of_a_case_after_them() -> None:
    made = from_config(
        "methods=[curated]", "arms=[none]", "seeds=[0]", 'train=["train.steps=9"]',
        'of_method={curated:["train.steps=8"],occupations/curated:["train.steps=7"]}',
    )  # fmt: skip
    steps = [text for text in made.steps(made.runs[0])[1].overrides if text.startswith("train.steps")]
    assert steps == ["train.steps=9", "train.steps=8", "train.steps=7"]


def test_overrides_of_a_case_reach_all_its_measurements_and_no_other_case() -> None:
    made = from_config(
        "cases=[occupations,market]", "methods=[curated]", "arms=[prompt_rewrite]", "seeds=[0]",
        'evaluate=["scorer=none"]', 'of_case={occupations:["tier=certify"],skin:["tier=quick"]}',
    )  # fmt: skip
    said = {f"{run.case}/{run.competitor.name}": made.steps(run)[-1].overrides for run in made.runs}
    assert all("scorer=none" in overrides for overrides in said.values())
    assert [name for name, overrides in said.items() if "tier=certify" in overrides] == [
        "occupations/curated",
        "occupations/prompt_rewrite",
    ]
    assert not any("tier=quick" in overrides for overrides in said.values())


def test_what_is_said_of_a_case_that_is_not_asked_for_is_no_mistake() -> None:
    made = from_config(
        "cases=[occupations]", "methods=[curated]", "arms=[none]", 'of_method={market/curated:["train.steps=7"]}'
    )
    assert not [text for text in made.steps(made.runs[0])[1].overrides if text.startswith("train.steps")]


def test_one_method_can_have_seeds_of_its_own_and_others_in_one_case() -> None:
    made = from_config(
        "cases=[occupations,market]", "methods=[curated,distill]", "arms=[none]", "seeds=[0]",
        "seeds_of={distill:[0,1,2],market/distill:[5]}",
    )  # fmt: skip
    found = [(run.case, run.competitor.name, run.seed) for run in made.runs]
    assert found == [
        ("occupations", "curated", 0),
        ("occupations", "distill", 0),
        ("occupations", "distill", 1),
        ("occupations", "distill", 2),
        ("market", "curated", 0),
        ("market", "distill", 5),
    ]


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        ("market", ["market/curated-s0", "market/distill-s0", "market/curated-s1", "market/distill-s1"]),
        ("market/distill", ["market/distill-s0", "market/distill-s1"]),
        ("occupations/curated-s1,market/distill-s0", ["occupations/curated-s1", "market/distill-s0"]),
    ],
)
def test_a_call_runs_the_pieces_that_it_names_of_the_same_benchmark(only: str, chosen: list[str]) -> None:
    both = ("cases=[occupations,market]", "methods=[curated,distill]", "arms=[none]", "seeds=[0,1]")
    made = from_config(*both, f"only=[{only}]")
    assert [f"{run.case}/{run.folder.name}" for run in made.chosen] == chosen
    assert made.runs == from_config(*both).runs == from_config(*both).chosen


def test_what_the_benchmark_is_without_is_neither_run_nor_missing() -> None:
    both = ("cases=[occupations,market]", "methods=[curated,distill]", "arms=[prompt_rewrite]", "seeds=[0,1]")
    made = from_config(*both, "without=[market/distill,occupations/curated-s1,occupations/prompt_rewrite]")
    found = [f"{run.case}/{run.folder.name}" for run in made.runs]
    assert found == [
        "occupations/curated-s0",
        "occupations/distill-s0",
        "occupations/distill-s1",
        "market/curated-s0",
        "market/prompt_rewrite",
        "market/curated-s1",
    ]
    assert len(from_config(*both, "without=[skin,meetup/distill]").runs) == 10  # a case that is not asked for
    with pytest.raises(ValueError, match="only: unknown 'market/distill'"):
        from_config(*both, "without=[market/distill]", "only=[market/distill]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods=[magic]", "unknown 'magic'; choose from"),
        ("arms=[adapted]", "unknown 'adapted'"),
        ("of_method={nowhere/curated:[]}", "unknown 'nowhere/curated'"),
        ("of_method={curated:[{train.steps:3}]}", "of_method.curated must be overrides such as"),
        ("of_case={nowhere:[]}", "of_case: unknown 'nowhere'"),
        ("of_case={market:[{tier:quick}]}", "of_case.market must be overrides such as"),
        ("train=[steps]", "train must be overrides such as"),
        ("seeds_of={curated:[]}", "seeds_of.curated must be one or more different ones"),
        ("seeds_of={curated:1}", "seeds_of.curated must be a list, got 1"),
        ("seeds_of={curated:[1.5]}", "seeds_of.curated must be whole numbers"),
        ("seeds_of={magic:[1]}", "unknown 'magic'"),
        ("methods=[curated,curated]", "methods must be different ones"),
        ("only=[market]", "only: unknown 'market'"),
        ("without=[nowhere]", "without: unknown 'nowhere'"),
        ("without=[occupations/curated-s7]", "without: unknown 'occupations/curated-s7'"),
        ("ours=magic", "ours: unknown 'magic'"),
        ("budget_seconds=0", "budget_seconds must be > 0"),
        ("cases=[demo,nothing]", "conf/experiment/nothing_build.yaml"),
        ("seeds=[0,0]", "seeds must be one or more different ones"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config(override)


@pytest.mark.parametrize(
    ("said", "message"), [("{nowhere:curated}", "ours_in: unknown 'nowhere'"), ("{market:magic}", "unknown 'magic'")]
)
def test_ours_in_names_cases_and_methods(said: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config("ours=distill", f"ours_in={said}")


def test_the_founding_cases_are_cases() -> None:
    people = {"occupations", "joint", "skin_60_25_15", "census"}
    assert people | {"meetup", "market", "meatballs", "safe_for_work", "demo"} <= set(cases())


@pytest.mark.parametrize("case", compose_config("benchmark_methods", ["experiment=benchmark"]).plain["cases"])
def test_every_baseline_of_the_benchmark_treats_its_cases_headline(case: str) -> None:
    """What an arm refuses when it is asked, from its config: the headline's suite, guidance, and a joint target."""
    made = from_config("experiment=benchmark", "methods=[none]", "ours=null", f"cases=[{case}]")
    for run in made.runs:
        config = compose_config("evaluate", made.steps(run)[0].overrides).plain
        arm = config["arm"]
        assert config["evaluation"]["primary_suite"] in arm["suites"]
        assert run.competitor.name != "negative_prompt" or config["sampling"]["guidance"] > 1
        drawn = [config["attribute"]["name"], *(each["name"] for each in arm["attributes"].values())]
        joints = config["evaluation"]["joints"]
        assert joints == ([drawn] if len(drawn) > 1 else [])
        assert (config["joint_target"] is not None) == bool(joints)
