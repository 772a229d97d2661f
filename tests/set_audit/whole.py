"""A whole audit of a small folder of pictures, with something of everything that an audit can find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evenhand.captions.language import ENGLISH
from evenhand.evaluation.targets import Uniform
from evenhand.hygiene.people import Depicts
from evenhand.readers.planted import Planted
from evenhand.report.set_page import write_set_page
from evenhand.set_audit.audit import SetAudit, thumbnails_of
from evenhand.set_audit.pictures import look
from evenhand.set_audit.wanted import OwnTarget, wanted_shares
from evenhand.sources.folders import GeneratedFolder
from tests.set_audit.made import COLORS, PRESENTATION, paint, settings

NASTY = "<b>nurse & co"
TURNED = "pilot\u202egnp.exe"
LONG_WORD = "a" * 150
WOMEN = {"mechanic": 1, NASTY: 19, TURNED: 10, LONG_WORD: 10}
EACH = 20


def reader(name: str, confusion: float) -> Planted:
    colors = {"presentation": {value: COLORS[value] for value in PRESENTATION.values}}
    return Planted(name=name, colors=colors, max_distance=60.0, confusion=confusion, abstain=0.0, seed=1)


def folder_of_pictures(folder: Path) -> Path:
    """Twenty pictures of each concept, one car, one file that is no picture, and one picture twice."""
    seed = 0
    for concept, women in WOMEN.items():
        for place in range(EACH):
            seed += 1
            path = folder / concept / f"{place:03d}.png"
            paint(path, "woman" if place < women else "man", seed=seed)
            path.with_suffix(".txt").write_text("a portrait of an mechanic" if place == 0 else "a portrait of a woman")
    paint(folder / "mechanic" / "car.png", "nobody", seed=99)
    (folder / "mechanic" / "bad.png").write_bytes(b"no picture")
    (folder / "mechanic" / "twice.png").write_bytes((folder / "mechanic" / "019.png").read_bytes())
    return folder


def audited(folder: Path, out: Path, *, depicts: Depicts = "synthetic", declared: bool = True) -> dict[str, Any]:
    """The audit of such a folder, and its page in ``out``."""
    source = GeneratedFolder(
        name=f"set {NASTY}",
        folder=folder,
        concept=None,
        concepts={},
        license="CC0-1.0",
        depicts=depicts,
        consent="they all <signed>" if depicts == "people" else None,
    )
    readers = (reader("planted", 0.0), reader("planted_b", 0.2))
    audit = SetAudit(
        source=source,
        attributes=(PRESENTATION,),
        wanted=wanted_shares([PRESENTATION], {"*": Uniform() if declared else OwnTarget()}, inputs=source.inputs),
        readers=readers,
        settings=replace(settings("generator"), near_distance=2),
        against=None,
        language=ENGLISH,
    )
    audit.check()
    loaded = {each.name: each.load(device=torch.device("cpu")) for each in readers}
    seen = list(look(source, loaded, audit.attributes, audit.settings, batch_size=8, num_threads=2))
    content = audit.of(seen)
    out.mkdir(parents=True, exist_ok=True)
    write_set_page(out, content, thumbnails_of(seen), command="python data_recipes/audit.py <x>")
    return content
