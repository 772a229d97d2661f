"""An adapter folder made ready for a model hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenhand.adapters.card import is_public, model_card, read_card
from evenhand.adapters.file import WEIGHTS_NAME, read_adapter
from evenhand.adapters.kohya import kohya_bytes
from evenhand.files import sha256_file, write_text_atomic
from evenhand.publish import Upload, check_names, upload_of

OPTIONAL_FILES = ("captions.json",)
KOHYA_NAME = "comfyui_a1111.safetensors"
SNIPPET_NAME = "card_snippet.yaml"


def prepare(
    adapter: Path, folder: Path, *, repo: str, license: str, evaluation: Path | None, with_kohya: bool
) -> Upload:
    """Write into ``folder`` what is to be published of an adapter folder, with a card that says all that is known.

    ``evaluation`` is a folder that ``evaluate/shift.py`` wrote of this very adapter. ValueError for what must not be
    published: a repository's name that is none, a base that only this machine knows, weights that are not the card's.
    """
    check_names(repo=repo, license=license)
    content, facts = read_adapter(adapter), read_card(adapter)
    sha256 = sha256_file(content.path)
    if facts["weights_sha256"] != sha256:
        raise ValueError(
            f"{adapter}: card.json is of weights {facts['weights_sha256'][:12]}, but they are {sha256[:12]}"
        )
    if not is_public(facts["base_model"]):
        raise ValueError(
            f"{adapter} was trained on base_model={facts['base_model']!r}, a folder of one machine: nobody else could "
            "use the adapter (train with the base's hub id)"
        )
    measured = None if evaluation is None else _measured(evaluation, sha256)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(content.path, folder / WEIGHTS_NAME)
    for name in ("card.json", *(name for name in OPTIONAL_FILES if (adapter / name).is_file())):
        shutil.copyfile(adapter / name, folder / name)
    if with_kohya and any(placement.dora for placement in content.placements.values()):
        raise ValueError(f"{adapter} is a DoRA, which ComfyUI and A1111 read in another sense (with_kohya=false)")
    if with_kohya:
        (folder / KOHYA_NAME).write_bytes(kohya_bytes(content.path))
    write_text_atomic(folder / "README.md", model_card(facts, license=license, measured=measured))
    return upload_of(folder, repo=repo, kind="model")


def _measured(evaluation: Path, sha256: str) -> Mapping[str, Any]:  # Any: YAML
    """The card snippet of an evaluation; ValueError for one of another adapter."""
    import yaml

    path = evaluation / SNIPPET_NAME
    if not path.is_file():
        raise ValueError(f"evaluation={evaluation} has no {SNIPPET_NAME} (give a folder that evaluate/shift.py wrote)")
    snippet: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))  # Any: YAML
    for entry in snippet["model-index"]:
        for result in entry["results"]:
            measured = result["dataset"]["args"].get("adapter_sha256")
            if measured != sha256:
                raise ValueError(
                    f"evaluation={evaluation} measured adapter {str(measured)[:12]}, but this one is {sha256[:12]}"
                )
    return snippet
