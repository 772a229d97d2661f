"""The same pictures in every form that a set can have give the same audit."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from evenhand.captions.language import ENGLISH
from evenhand.compose import compose_config
from evenhand.evaluation.targets import Uniform
from evenhand.set_audit.audit import SetAudit
from evenhand.set_audit.pictures import look
from evenhand.set_audit.wanted import wanted_shares
from evenhand.sources.records import Source
from tests.set_audit.made import PRESENTATION, paint, settings
from tests.set_audit.whole import reader

COMMON = ("source.license=CC0-1.0", "source.depicts=synthetic")
COLUMNS = ("source.columns.text=text", "source.columns.concept=concept", "+source.columns.labels.presentation=shown")


def rows() -> list[dict[str, str]]:
    """Nurses are painted as women, mechanics as men, and one mechanic is said to be a woman."""
    return [
        {
            "text": f"a portrait of a {concept}",
            "concept": concept,
            "shown": "woman" if place < 1 else said,
        }
        for concept, said in (("nurse", "woman"), ("mechanic", "man"))
        for place in range(12)
    ]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    contents = []
    for place, row in enumerate(rows()):
        value = "woman" if row["concept"] == "nurse" else "man"
        paint(folder / "metadata" / f"{place:03d}.png", value, seed=place)
        content = (folder / "metadata" / f"{place:03d}.png").read_bytes()
        contents.append(content)
        plain = folder / "plain" / row["concept"] / f"{place:03d}.png"
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(content)
        plain.with_suffix(".txt").write_text(row["text"])
    lines = [json.dumps({"file_name": f"{place:03d}.png", **row}) + "\n" for place, row in enumerate(rows())]
    (folder / "metadata" / "metadata.jsonl").write_text("".join(lines))
    (folder / "parquet").mkdir()
    table = [{"image": {"bytes": content, "path": None}, **row} for content, row in zip(contents, rows(), strict=True)]
    named = dict.fromkeys(rows()[0], datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), **named})
    datasets.Dataset.from_list(table, features=features).to_parquet(folder / "parquet" / "0.parquet")
    (folder / "webdataset").mkdir()
    with tarfile.open(folder / "webdataset" / "0.tar", "w") as shard:
        for place, (content, row) in enumerate(zip(contents, rows(), strict=True)):
            for ending, member in (("png", content), ("json", json.dumps(row).encode())):
                info = tarfile.TarInfo(f"{place:03d}.{ending}")
                info.size = len(member)
                shard.addfile(info, io.BytesIO(member))
    return folder


def audited(source: Source) -> dict[str, Any]:
    planted = reader("planted", 0.0)
    audit = SetAudit(
        source=source,
        attributes=(PRESENTATION,),
        wanted=wanted_shares([PRESENTATION], {"*": Uniform()}, inputs=source.inputs),
        readers=(planted,),
        settings=replace(settings(), near_distance=None),
        against=None,
        language=ENGLISH,
    )
    audit.check()
    loaded = {planted.name: planted.load(device=torch.device("cpu"))}
    return audit.of(list(look(source, loaded, [PRESENTATION], audit.settings, batch_size=5, num_threads=1)))


def source(*overrides: str) -> Source:
    made: Source = compose_config("audit_set", [*overrides, *COMMON]).build("source")
    return made


@pytest.mark.parametrize(
    "overrides",
    [
        ("source=image_folder", "source.folder={}/metadata", *COLUMNS),
        ("source=parquet", "source.folder={}/parquet", *COLUMNS),
        ("source=webdataset", "source.folder={}/webdataset", *COLUMNS),
        ("source=hub", "source.repo={}/parquet", "source.revision=null", *COLUMNS),
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_set_with_labels_is_audited_in_every_form(forms: Path, overrides: tuple[str, ...]) -> None:
    found = audited(source(*(each.format(forms) for each in overrides)))
    assert (found["n_images"], found["n_skipped"]) == (24, 0)
    counts = {
        (entry["reader"], entry["concept"]): [value["count"] for value in entry["values"]] for entry in found["shares"]
    }
    assert counts == {
        ("planted", None): [12, 12],
        ("planted", "nurse"): [12, 0],
        ("planted", "mechanic"): [0, 12],
        ("labels", None): [13, 11],
        ("labels", "nurse"): [12, 0],
        ("labels", "mechanic"): [1, 11],
    }
    assert found["agreement"][0]["share"] == pytest.approx(23 / 24)
    assert found["captions"]["n_different"] == 2
    assert found["licenses"] == {"CC0-1.0": 24}
    assert not found["passed"]


def test_pictures_of_a_tool_need_no_labels(forms: Path) -> None:
    found = audited(source("source=generated_folder", f"source.folder={forms}/plain"))
    assert {entry["reader"] for entry in found["shares"]} == {"planted"}
    assert found["concepts"] == {"mechanic": 12, "nurse": 12}
    assert found["captions"]["n_captions"] == 24
    assert found["agreement"] == []


def test_one_concept_can_be_given_for_all_of_them(forms: Path) -> None:
    given = ("source=generated_folder", f"source.folder={forms}/plain", "source.concept=person")
    assert audited(source(*given))["concepts"] == {"person": 24}
