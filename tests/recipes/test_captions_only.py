from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evenhand.compose import compose_config
from evenhand.data.rows import read_examples
from evenhand.files import read_json, read_jsonl, write_jsonl_atomic
from evenhand.paths import program_path
from evenhand.processes import OneProcess
from evenhand.recipes.captions_only import CaptionsOnly
from evenhand.recipes.certificate import certify

CPU = torch.device("cpu")
FEW = ("suite.concepts.train=[mechanic,nurse,artist]", "recipe.plan.images_per_concept=4")
PRESERVE = (
    "recipe.preserve={_target_:evenhand.recipes.preserve.Preserve,explicit:true,images_per_caption:1,"
    "captions:[a photo of a car],empty:1}"
)
GERMAN = """\
# @package _global_
suite:
  concepts:
    train:
      - name: doctor
        noun: ärztliche Fachkraft
        noun_class: feminine
        cases: {dative: {noun: ärztlichen Fachkraft}}
        forms:
          presentation: {woman: {noun: Ärztin, noun_class: feminine}, man: {noun: Arzt, noun_class: masculine}}
      - {name: apprentice, noun: Lehrling, noun_class: masculine}
    heldout:
      - {name: teacher, noun: Lehrkraft, plural: Lehrkräfte}
wordings:
  wordings: ["ein Foto von {a_concept:dative}", "{a_concept} bei der Arbeit"]
attribute:
  words: {woman: [Frau, weiblich], man: [Mann, männlich]}
"""


def recipe(*overrides: str) -> CaptionsOnly:
    made: CaptionsOnly = compose_config("build", ["recipe=captions_only", *overrides]).build("recipe")
    return made


def rows(folder: Path, maker: CaptionsOnly, *, part: str = "train") -> list[dict[str, Any]]:
    assert list(maker.build(folder, device=CPU, ranks=OneProcess())) == []
    return read_jsonl(folder / part / "captions.jsonl")


def german(folder: Path, text: str = GERMAN) -> CaptionsOnly:
    (folder / "experiment").mkdir()
    (folder / "experiment" / "german.yaml").write_text(text)
    return recipe("language=german", "experiment=german", f"hydra.searchpath=[file://{folder}]")


def test_a_row_has_the_neutral_the_explicit_and_every_counterfactual_caption(tmp_path: Path) -> None:
    row = rows(tmp_path, recipe(*FEW, "+attribute@recipe.plan.attributes.second=glasses"))[-1]
    template = row["template"]
    assert row == {
        "text": template.replace("{a_concept}", "an artist"),
        "concept": "artist",
        "labels": {"presentation": "man", "glasses": "absent"},
        "explicit": template.replace("{a_concept}", "a male artist without glasses"),
        "counterfactuals": {
            "presentation": {
                "woman": template.replace("{a_concept}", "a female artist without glasses"),
                "man": template.replace("{a_concept}", "a male artist without glasses"),
            },
            "glasses": {
                "worn": template.replace("{a_concept}", "a male artist with glasses"),
                "absent": template.replace("{a_concept}", "a male artist without glasses"),
            },
        },
        "template": template,
        "split": "train",
        "source": "captions:templates",
        "license": "apache-2.0",
    }


def test_quotas_are_met_and_the_certificate_says_what_the_captions_come_from(tmp_path: Path) -> None:
    maker = recipe("concepts=occupations", "concepts.limit=40", "wordings=people")
    found = rows(tmp_path, maker)
    counts = Counter((row["concept"], row["labels"]["presentation"]) for row in found)
    assert set(counts.values()) == {8}  # 16 captions of a concept, two values
    heldout = {concept.name for concept in maker.plan.heldout}
    assert not heldout & {row["concept"] for row in found}
    certificate = certify(tmp_path, maker.plan, maker.origin, maker.account(tmp_path))
    assert certificate["passed"]
    assert certificate["holds"] == "captions"
    assert certificate["sources"]["concept list occupations"] == "Apache-2.0"


def test_a_caption_that_was_changed_afterwards_is_found_by_the_certificate(tmp_path: Path) -> None:
    maker = recipe(*FEW)
    first, *others = rows(tmp_path, maker)
    for wrong, key in (("a female nurse", "leaks"), ("an nurse", "grammar")):
        write_jsonl_atomic(tmp_path / "train" / "captions.jsonl", [{**first, "text": wrong}, *others])
        certificate = certify(tmp_path, maker.plan, maker.origin)
        assert not certificate["passed"]
        assert [wrong in problem for problem in certificate[key]] == [True]
    write_jsonl_atomic(tmp_path / "train" / "captions.jsonl", [first, *others])
    assert certify(tmp_path, maker.plan, maker.origin)["passed"]


def test_training_on_captions_alone_is_refused_with_the_reason(tmp_path: Path) -> None:
    rows(tmp_path, recipe(*FEW))
    with pytest.raises(
        ValueError, match="holds captions without images .recipe=captions_only., and training needs images"
    ):
        read_examples(tmp_path, "train")


def test_what_must_stay_is_held_to_the_same_grammar_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match="preserve.captions have mistakes of grammar: article 'a orange'"):
        recipe(*FEW, PRESERVE.replace("a photo of a car", "a photo of a orange"))


def test_wording_says_nothing_about_the_labels(tmp_path: Path) -> None:
    by_label: dict[str, Counter[tuple[str, str]]] = {}
    for row in rows(tmp_path, recipe(*FEW, "wordings=people", "recipe.plan.images_per_concept=60")):
        by_label.setdefault(row["labels"]["presentation"], Counter())[row["concept"], row["template"]] += 1
    assert by_label["woman"] == by_label["man"]
    assert len(by_label["woman"]) > 60


def test_what_must_stay_as_it_is_has_a_part_of_its_own(tmp_path: Path) -> None:
    maker = recipe(*FEW, PRESERVE)
    train = rows(tmp_path, maker)
    preserve = read_jsonl(tmp_path / "preserve" / "captions.jsonl")
    assert [row["text"] for row in preserve] == [*(row["explicit"] for row in train), "a photo of a car", ""]
    assert {row["split"] for row in preserve} == {"preserve"}
    assert certify(tmp_path, maker.plan, maker.origin)["passed"]
    assert not (tmp_path / "other").exists()
    rows(tmp_path / "other", recipe(*FEW))
    assert not (tmp_path / "other" / "preserve").exists()


def test_a_set_in_german_takes_yaml_alone(tmp_path: Path) -> None:
    maker = german(tmp_path)
    found = {
        (row["concept"], row["labels"]["presentation"], row["text"], row["explicit"]) for row in rows(tmp_path, maker)
    }
    assert found == {  # by hand
        (
            "doctor",
            "woman",
            "ein Foto von einer ärztlichen Fachkraft",
            "ein Foto von einer Ärztin",
        ),
        ("doctor", "man", "ein Foto von einer ärztlichen Fachkraft", "ein Foto von einem Arzt"),
        ("doctor", "woman", "eine ärztliche Fachkraft bei der Arbeit", "eine Ärztin bei der Arbeit"),
        ("doctor", "man", "eine ärztliche Fachkraft bei der Arbeit", "ein Arzt bei der Arbeit"),
        ("apprentice", "woman", "ein Foto von einem Lehrling", "ein Foto von einem weiblichen Lehrling"),
        ("apprentice", "man", "ein Foto von einem Lehrling", "ein Foto von einem männlichen Lehrling"),
        ("apprentice", "woman", "ein Lehrling bei der Arbeit", "ein weiblicher Lehrling bei der Arbeit"),
        ("apprentice", "man", "ein Lehrling bei der Arbeit", "ein männlicher Lehrling bei der Arbeit"),
    }
    certificate = certify(tmp_path, maker.plan, maker.origin)
    assert certificate["passed"]
    assert certificate["leaks"] == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        (
            "{a_concept} bei der Arbeit",
            "{a_concept} neben einer Ärztin",
            "captions leak: 'ärztin' .presentation=woman.",
        ),
        ("{a_concept} bei der Arbeit", "{a_concept} und zwei Lehrkräfte", "held-out concept teacher"),
        ("{a_concept} bei der Arbeit", "{a_concept} bei  der Arbeit", "captions have mistakes of grammar: spaces"),
        ("dative}", "dativ}", "no case 'dativ' of 'ärztliche Fachkraft'"),
        (
            "{woman: {noun: Ärztin",
            "{women: {noun: Ärztin",
            "forms.presentation names 'women'; the values are woman, man",
        ),
    ],
)
def test_a_german_set_that_cannot_be_is_refused_by_name(tmp_path: Path, right: str, wrong: str, problem: str) -> None:
    assert right in GERMAN
    with pytest.raises(ValueError, match=problem):
        german(tmp_path, GERMAN.replace(right, wrong))


def test_a_template_with_the_wrong_article_is_refused_before_anything_is_written() -> None:
    with pytest.raises(ValueError, match="mistakes of grammar: article 'a artist', should be 'an artist'"):
        recipe(*FEW, "recipe.plan.templates=['a photo of a {concept}']")


def test_the_program_builds_captions_and_plain_datasets_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    command = [sys.executable, str(program_path("data_recipes/build")), "recipe=captions_only", *FEW, PRESERVE]
    done = subprocess.run([*command, f"run_folder={folder}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 captions to train on, 14 to preserve, 0 leaks" in done.stdout
    assert read_json(folder / "certificate.json")["passed"]
    code = (
        "import sys; sys.modules['evenhand'] = None\n"
        "from datasets import load_dataset\n"
        f"data = load_dataset({str(folder)!r}, split='train', cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(len(data), data[0]['counterfactuals']['presentation']['woman'] == data[0]['explicit'])"
    )
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout.split() == ["12", "True"]
