"""A config node becomes the part that it names, or one clear line says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenhand.construct import build, build_at
from evenhand.interfaces import SamplingSettings
from evenhand.records import Target
from tests.engines import Car, Engine

HERE = "tests.engines"
ALLOW = ("evenhand.", HERE)
SAMPLING = {
    "_target_": "evenhand.interfaces.SamplingSettings",
    "steps": 20,
    "guidance": 3,
    "height_px": 64,
    "width_px": 64,
}


def engine(**arguments: object) -> dict[str, object]:
    return {"_target_": f"{HERE}.Engine", "power": 1.5, **arguments}


def test_a_node_becomes_the_part_it_names() -> None:
    made = build(SAMPLING)
    assert made == SamplingSettings(steps=20, guidance=3.0, height_px=64, width_px=64)
    assert isinstance(made.guidance, float)


def test_parts_inside_parts_are_built_first() -> None:
    node = {"_target_": f"{HERE}.Car", "engine": engine(), "spares": [engine(power=2), engine(power=3)]}
    made = build(node, allow=ALLOW)
    assert made == Car(engine=Engine(power=1.5), spares=[Engine(power=2.0), Engine(power=3.0)])


def test_containers_without_a_target_stay_plain_and_hold_parts() -> None:
    node = {"a": SAMPLING, "b": [1, "x", None, {"c": SAMPLING}]}
    sampling = build(SAMPLING)
    assert build(node) == {"a": sampling, "b": [1, "x", None, {"c": sampling}]}


def test_a_function_can_be_a_target() -> None:
    assert build({"_target_": f"{HERE}.make_engine", "power": 2.0}, allow=ALLOW) == Engine(power=2.0)


def test_values_are_given_as_their_annotation_wants_them() -> None:
    made = build(engine(power=2, manual="a/b.pdf", ratios=[1.0, 2.0], label="x"), allow=ALLOW)
    assert made == Engine(power=2.0, manual=Path("a/b.pdf"), ratios=(1.0, 2.0), label="x")
    assert build(engine(manual=None, label=None), allow=ALLOW) == Engine(power=1.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pwoer": 2}, r"unknown key car\.engine\.pwoer .*takes power, gears.*did you mean 'power'\?"),
        ({"zzz": 2}, r"unknown key car\.engine\.zzz .*choose one of fuel, gears"),
        ({"_partial_": True}, r"unknown key car\.engine\._partial_"),
        ({"power": -1}, r"power must be > 0, got -1\.0 \(config key: car\.engine\)"),
        ({"power": "fast"}, r"car\.engine\.power must be float, got 'fast'"),
        ({"gears": 5.5}, r"car\.engine\.gears must be int, got 5\.5"),
        ({"gears": True}, r"car\.engine\.gears must be int, got True"),
        ({"gears": None}, r"car\.engine\.gears must be int, got None"),
        ({"label": 3}, r"car\.engine\.label must be str, got 3"),
        ({"fuel": "water"}, r"car\.engine\.fuel must be one of petrol, diesel, got 'water'"),
        ({"power": "???"}, r"car\.engine\.power has no value; set car\.engine\.power="),
        ({"_target_": "os.system"}, r"car\.engine\._target_=os\.system is outside of evenhand"),
        ({"_target_": "evenhandy.part"}, r"evenhandy\.part is outside of evenhand"),
        (
            {"_target_": "evenhand.nothing.Part"},
            r"_target_=evenhand\.nothing\.Part: there is no module evenhand\.nothing",
        ),
        ({"_target_": "evenhand.records.Targt"}, r"evenhand\.records has no 'Targt'; did you mean 'Target'\?"),
        ({"_target_": "evenhand.records.SUITES"}, r"evenhand\.records has no 'SUITES'"),
        ({"_target_": 3}, r"_target_ must be module\.name, got 3"),
    ],
)
def test_a_wrong_node_is_refused_with_its_place(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build({"car": {"engine": engine(**changes)}}, allow=ALLOW)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"engine\.power is missing: .*Engine needs it"):
        build({"_target_": f"{HERE}.Engine"}, key="engine", allow=ALLOW)


def test_an_error_inside_a_module_is_not_called_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_part.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build({"_target_": "broken_part.Part"}, allow=("broken_part",))


def test_shares_of_a_target_reach_it_as_a_tuple() -> None:
    made = build({"_target_": "evenhand.records.Target", "attribute": "skin", "shares": [0.5, 0.5]})
    assert made == Target(attribute="skin", shares=(0.5, 0.5))


def test_a_missing_key_of_a_part_that_stands_elsewhere_is_said_where_it_is_set() -> None:
    """``sources.first: ${source}`` takes its keys from ``source``: recipe.sources.first.folder cannot be set."""
    source = {"_target_": "builtins.dict", "folder": "???"}
    plain = {"recipe": {"sources": {"first": source}}, "source": dict(source)}
    with pytest.raises(ValueError, match=r"recipe.sources.first.folder has no value; set source.folder=..."):
        build_at(plain, "recipe", allow=("builtins.",))
    with pytest.raises(ValueError, match=r"source.folder has no value; set source.folder=..."):
        build_at({"source": source}, "source", allow=("builtins.",))
