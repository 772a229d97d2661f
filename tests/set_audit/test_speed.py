"""How long the audit of 10,000 pictures of 64 px takes with a reader of tinytown."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from evenhand.captions.language import ENGLISH
from evenhand.compose import compose_config
from evenhand.evaluation.targets import Uniform
from evenhand.set_audit.audit import SetAudit
from evenhand.set_audit.pictures import look
from evenhand.set_audit.wanted import wanted_shares
from evenhand.sources.folders import GeneratedFolder
from tests.set_audit.made import PRESENTATION, paint, settings

NUM_PICTURES = 10_000
MOST_SECONDS = 180  # of processor time, which other work on the machine does not add to

pytestmark = pytest.mark.slow


def test_ten_thousand_pictures_take_less_than_three_minutes(tmp_path: Path) -> None:
    for place in range(NUM_PICTURES):
        path = tmp_path / f"concept_{place % 50}" / f"{place}.png"
        paint(path, "woman" if place % 2 else "man", seed=place, size_px=64)
        path.with_suffix(".txt").write_text(f"a portrait of somebody, number {place}")
    source = GeneratedFolder(
        name="many",
        folder=tmp_path,
        concept=None,
        concepts={},
        license="CC0-1.0",
        depicts="synthetic",
        consent=None,
    )
    reader = compose_config("audit_set", ["reader=tinytown_b"]).build("reader")
    audit = SetAudit(
        source=source,
        attributes=(PRESENTATION,),
        wanted=wanted_shares([PRESENTATION], {"*": Uniform()}, inputs=source.inputs),
        readers=(reader,),
        settings=settings(),
        against=None,
        language=ENGLISH,
    )
    audit.check()
    torch.set_num_threads(1)
    started = time.process_time()
    loaded = {reader.name: reader.load(device=torch.device("cpu"))}
    seen = list(look(source, loaded, [PRESENTATION], audit.settings, batch_size=64, num_threads=1))
    found = audit.of(seen)
    seconds = time.process_time() - started
    assert found["n_images"] == NUM_PICTURES
    assert seconds < MOST_SECONDS
