"""A whole audit: every figure counted from how the folder was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenhand.captions.language import ENGLISH
from evenhand.evaluation.targets import Uniform
from evenhand.files import write_json_atomic
from evenhand.set_audit.audit import SetAudit
from evenhand.set_audit.settings import readers_of
from evenhand.set_audit.wanted import wanted_shares
from evenhand.sources.folders import GeneratedFolder
from tests.set_audit.made import PRESENTATION, SKIN, paint, settings
from tests.set_audit.whole import EACH, NASTY, WOMEN, audited, folder_of_pictures, reader


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_pictures(tmp_path_factory.mktemp("set") / "pictures")


def test_everything_that_was_put_into_a_set_is_found(pictures: Path, tmp_path: Path) -> None:
    found = audited(pictures, tmp_path)
    assert (found["n_images"], found["n_skipped"]) == (len(WOMEN) * EACH + 2, 1)
    assert found["skipped"][0]["examples"][0]["key"] == "mechanic/bad.png"
    by_concept = {entry["concept"]: entry for entry in found["shares"] if entry["reader"] == "planted"}
    assert by_concept[NASTY]["values"][0]["count"] == WOMEN[NASTY]
    # One of the mechanics is a woman, twenty are men: one came twice. The car shows nobody.
    assert [value["count"] for value in by_concept["mechanic"]["values"]] == [1, 20]
    assert by_concept["mechanic"]["n_images"] == EACH + 2
    reach = {entry["reader"]: entry for entry in found["reach"]}
    assert reach["planted"]["n_unread"] == 1
    assert found["duplicates"]["equal"]["groups"] == [{"size": 2, "keys": ["mechanic/019.png", "mechanic/twice.png"]}]
    captions = found["captions"]
    assert (captions["n_captions"], captions["n_without"]) == (80, 2)
    assert captions["attribute_words"][0]["n_images"] == 76
    assert captions["grammar"]["n_images"] == 4
    assert captions["leaks"] is None
    (agreement,) = found["agreement"]
    assert agreement["n_subjects"] == 81
    assert 0.6 < agreement["share"] < 0.95
    assert not found["passed"]
    assert json.loads(json.dumps(found))["people"]["depicts"] == "synthetic"


def test_of_real_people_no_picture_is_named_beside_a_reading(pictures: Path, tmp_path: Path) -> None:
    found = audited(pictures, tmp_path, depicts="people")
    assert all(entry["doubtful"] == () and entry["examples"] == () for entry in found["reach"])
    assert all(entry["differ"] == () for entry in found["agreement"])
    assert found["people"]["consent"] == "they all <signed>"
    assert found["shares"][0]["n_read"] == 81


def test_without_a_declared_target_nothing_fails(pictures: Path, tmp_path: Path) -> None:
    found = audited(pictures, tmp_path, declared=False)
    assert found["passed"]
    assert found["judgements"] == []
    assert found["target_origin"] is None
    assert "None is declared" in str(found["findings"])


def test_the_same_pictures_give_the_same_audit(pictures: Path, tmp_path: Path) -> None:
    assert json.dumps(audited(pictures, tmp_path)) == json.dumps(audited(pictures, tmp_path))


def whole(source: GeneratedFolder, *, skin: bool = False) -> SetAudit:
    attributes = (SKIN,) if skin else (PRESENTATION,)
    return SetAudit(
        source=source,
        attributes=attributes,
        wanted=wanted_shares(attributes, {"*": Uniform()}, inputs=source.inputs),
        readers=readers_of("reader", reader("planted", 0.0), None),
        settings=settings(),
        against=None,
        language=ENGLISH,
    )


def source_of(folder: Path) -> GeneratedFolder:
    return GeneratedFolder(
        name="made", folder=folder, concept="nurse", concepts={}, license="x", depicts="synthetic", consent=None
    )


def test_what_would_fail_after_an_hour_fails_at_once(tmp_path: Path) -> None:
    paint(tmp_path / "set" / "0.png", "man", seed=0)
    with pytest.raises(ValueError, match="reader planted does not read 'skin'; it reads presentation"):
        whole(source_of(tmp_path / "set"), skin=True).check()
    with pytest.raises(ValueError, match="no such folder"):
        whole(source_of(tmp_path / "nowhere")).check()
    with pytest.raises(ValueError, match="by must be one of reader, labels, got 'ask'"):
        readers_of("ask", reader("planted", 0.0), None)
    with pytest.raises(ValueError, match="second_reader=planted would not be used"):
        readers_of("labels", reader("other", 0.0), reader("planted", 0.0))


def test_a_set_whose_certificate_says_people_is_not_audited_as_anything_else(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "0.png", "man", seed=0)
    write_json_atomic(tmp_path / "certificate.json", {"people": {"depicts": "people"}})
    with pytest.raises(ValueError, match="set source.depicts=people, and source.consent"):
        whole(source_of(tmp_path / "train")).check()


def test_a_set_without_one_usable_picture_is_refused_with_the_reasons(tmp_path: Path) -> None:
    from evenhand.sources.records import Skipped

    skipped = [Skipped(key=str(place), reason="truncated") for place in range(3)]
    with pytest.raises(ValueError, match="no picture can be used \\(3 truncated\\)"):
        whole(source_of(tmp_path)).of(skipped)
