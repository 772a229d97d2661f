"""Several adapters of one base as one file whose addition is the weighted sum of theirs, exactly.

The As stand upon each other and the Bs, each with its weight and scale, beside each other: ``[w1 s1 B1, w2 s2 B2] [A1;
A2]``. So the rank is the sum of the ranks and there are no cross terms. Adding A to A and B to B ("linear") keeps the
rank, but its product holds ``B1 A2`` and ``B2 A1`` too, of adapters that never met: on random ones it is off by about
the size of the sum itself. It is not offered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.adapters.card import model_card, read_card
from evenhand.adapters.file import (
    DOWN,
    FINGERPRINT_KEY,
    UP,
    WEIGHTS_NAME,
    ZERO_SNR_KEY,
    AdapterFile,
    file_key,
    header_of,
    read_adapter,
    safetensors_bytes,
)
from evenhand.adapters.placement import UNET, Placement
from evenhand.files import atomic_path, sha256_file, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    import torch

HOW = ("cat",)
METHOD = "merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The file's tensors by key and its placements, before it is written."""

    tensors: Mapping[str, torch.Tensor]
    placements: Mapping[str, Placement]


def merge(contents: Sequence[AdapterFile], weights: Sequence[float], *, how: str = "cat") -> Merged:
    """The weighted sum of adapters; ValueError for those that do not belong together or whose sum is no LoRA."""
    import torch

    _check(contents, weights, how)
    tensors: dict[str, torch.Tensor] = {}
    placements = {}
    for part in sorted({part for content in contents for part in content.placements}):
        holders = [(c, w) for c, w in zip(contents, weights, strict=True) if part in c.placements]
        ranks = {}
        for module in sorted({module for content, _ in holders for module in content.placements[part].ranks}):
            having = [(c, w) for c, w in holders if module in c.placements[part].ranks]
            downs = [content.tensors[part, module, DOWN].float() for content, _ in having]
            ups = [
                weight * content.placements[part].scale(module) * content.tensors[part, module, UP].float()
                for content, weight in having
            ]
            tensors[file_key(part, module, DOWN)] = torch.cat(downs, dim=0).contiguous()
            tensors[file_key(part, module, UP)] = torch.cat(ups, dim=1).contiguous()
            ranks[module] = sum(len(down) for down in downs)
        # alpha = rank: the scales and weights are in B
        alphas = {module: float(rank) for module, rank in ranks.items()}
        placements[part] = Placement(ranks=ranks, alphas=alphas, rslora=False, dora=False)
    return Merged(tensors=tensors, placements=placements)


def summed(contents: Sequence[AdapterFile], weights: Sequence[float]) -> AdapterFile:
    """The weighted sum of adapters as if it had been read from a file."""
    merged = merge(contents, weights)
    tensors = {
        (part, module, end): merged.tensors[file_key(part, module, end)]
        for part, placement in merged.placements.items()
        for module in placement.ranks
        for end in (DOWN, UP)
    }
    return AdapterFile(path=contents[0].path, header={}, placements=merged.placements, tensors=tensors)


def _check(contents: Sequence[AdapterFile], weights: Sequence[float], how: str) -> None:
    if how not in HOW:
        reason = ": it adds A and B apart, so products of one adapter's B with another's A come in" * (how == "linear")
        raise ValueError(f"how must be {' or '.join(HOW)}, got {how!r}{reason}")
    if len(contents) < 2 or len(contents) != len(weights):
        raise ValueError(
            f"two adapters or more and a weight for each are needed, got {len(contents)} adapters and "
            f"{len(weights)} weights"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be finite numbers, got {list(weights)}")
    first = contents[0]
    for content in contents:
        if any(placement.dora for placement in content.placements.values()):
            raise ValueError(
                f"adapter {content.path} is a DoRA: it multiplies the base's rows, so no sum of adapters equals it "
                "(load it beside the others with load_lora_weights and set_adapters)"
            )
        for key in (FINGERPRINT_KEY, ZERO_SNR_KEY):
            if content.header.get(key) != first.header.get(key):
                raise ValueError(
                    f"{content.path} and {first.path} are of different bases: {key} is "
                    f"{content.header.get(key)} and {first.header.get(key)}"
                )


def merge_folders(
    folders: Sequence[Path], weights: Sequence[float], to: Path, *, name: str, version: str, how: str = "cat"
) -> Path:
    """Merge adapter folders into the folder ``to``, with header and cards that name them; gives the weights' path."""
    contents = [read_adapter(folder) for folder in folders]
    merged = merge(contents, weights, how=how)
    cards = [read_card(folder) for folder in folders]
    sources = [
        {"name": card["name"], "weight": weight, "weights_sha256": sha256_file(content.path)}
        for card, weight, content in zip(cards, weights, contents, strict=True)
    ]
    facts = _facts(cards, contents, merged, name=name, version=version)
    header = {f"evenhand.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    header["evenhand.merged_from"] = json.dumps(sources)
    with atomic_path(to / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(safetensors_bytes(merged.tensors, header_of(merged.placements, header)))
    described = {
        **facts,
        "merged_from": sources,
        "num_modules": sum(len(placement.ranks) for placement in merged.placements.values()),
        "num_parameters": sum(value.numel() for value in merged.tensors.values()),
        "weights_sha256": sha256_file(to / WEIGHTS_NAME),
    }
    write_json_atomic(to / "card.json", described)
    write_text_atomic(to / "README.md", model_card(described))
    return to / WEIGHTS_NAME


def _facts(
    cards: Sequence[Mapping[str, Any]],  # Any: card.json
    contents: Sequence[AdapterFile],
    merged: Merged,
    *,
    name: str,
    version: str,
) -> dict[str, Any]:  # Any: JSON
    """What a merged adapter's card says: what its sources share, and all that they were trained on."""
    first = cards[0]
    common = merged.placements[UNET].peft_settings() if UNET in merged.placements else {"r": 0, "lora_alpha": 0.0}
    has_text = any(part != UNET for part in merged.placements)
    return {
        "name": name,
        **{key: first[key] for key in ("base", "base_model", "base_license", "base_fingerprint", "zero_terminal_snr")},
        "method": METHOD,
        "steps": 0,
        "seed": 0,
        "concepts": sorted({concept for card in cards for concept in card["concepts"]}),
        "prompts": list(dict.fromkeys(prompt for card in cards for prompt in card["prompts"])),
        "data_sha256": ", ".join(card["data_sha256"] for card in cards),
        "config_sha256": ", ".join(card["config_sha256"] for card in cards),
        "training_readers": sorted({reader for card in cards for reader in card["training_readers"]}),
        "version": version,
        "rank": common["r"],
        "alpha": common["lora_alpha"],
        "variant": "lora",
        "init": "trained",
        "targets": "merged",
        "text_encoder": "merged" if has_text else "none",
        "rank_pattern": {},
        "alpha_pattern": {},
    }
