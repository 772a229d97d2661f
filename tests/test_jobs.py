"""The name of a sweep's job is a function of its overrides, and folders with such names can stand in a command."""

from __future__ import annotations

import random
import string

import pytest

from evenhand.jobs import MOST_LETTERS, job_name, override_key


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["optim.learning_rate=0.0003", "lora.rank=4"], "rank-4+learning_rate-0.0003"),
        (["lora.rank=4", "optim.learning_rate=0.0003"], "rank-4+learning_rate-0.0003"),
        (["base=sd15", "lora.rank=4"], "rank-4+base-sd15"),
        (["+note=x", "~optim.eps", "lora=all"], "note-x+lora-all+eps-"),
        (["experiment=demo", "tracker=wandb", "launch.num_processes=2", "measure.tier=quick", "run_name=x"], ""),
        ([], ""),
    ],
)
def test_a_name_is_made_of_what_tells_runs_apart(overrides: list[str], name: str) -> None:
    assert job_name(overrides) == name


def test_what_a_name_leaves_out_is_in_its_hash() -> None:
    here, there = job_name(["data=runs/a/set", "seed=1"]), job_name(["data=runs/b/set", "seed=1"])
    assert here.startswith("seed-1+data-set-")
    assert here != there
    assert job_name(["x.rank=1", "y.rank=1"]) != job_name(["x.rank=1", "z.rank=1"])
    quoted = job_name(["note='a b, c=d'"])
    assert quoted.startswith("note--a-b-c-d--")


def test_a_long_name_is_cut_and_still_its_own() -> None:
    long = [f"group.key_{number}={number}" for number in range(40)]
    names = {job_name([*long, f"seed={seed}"]) for seed in range(50)}
    assert len(names) == 50
    assert {len(name) for name in names} == {MOST_LETTERS}


def test_every_name_is_a_plain_word_to_a_shell_and_to_hydra() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    draw = random.Random(0)
    for _ in range(200):
        value = "".join(draw.choices(string.printable, k=12))
        name = job_name([f"note={value}", "lora.rank=4"])
        assert set(name) <= set(string.ascii_letters + string.digits + "._+-")
        (parsed,) = OverridesParser.create().parse_overrides([f"adapter=runs/x/{name}/adapter"])
        assert parsed.value() == f"runs/x/{name}/adapter"


@pytest.mark.parametrize("override", ["optim.lr=1", "+optim.lr=1", "++optim.lr=1", "~optim.lr", "~optim.lr=1"])
def test_the_key_of_an_override(override: str) -> None:
    assert override_key(override) == "optim.lr"
