"""Where an adapter sits: rank and alpha of every module that it changes, from settings or from a file.

A *part* is a module of the pipeline that an adapter can be attached to: ``unet``, ``text_encoder``, ``text_encoder_2``.
A text encoder's modules are called here as in transformers >= 5.6 (``encoder.layers.0...``); older versions, and one of
SDXL's two encoders in all of them, have ``text_model.`` before that. In files all have it, as in everybody's files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenhand.adapters.settings import LoraSettings
from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

UNET = "unet"
TEXT_MODEL = "text_model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The adapter of one part: rank and alpha by full module name, in one order, and what they mean."""

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    dora: bool

    def scale(self, module: str) -> float:
        """What ``B A`` is multiplied by."""
        rank = self.ranks[module]
        return self.alphas[module] / (math.sqrt(rank) if self.rslora else rank)

    def peft_settings(self) -> dict[str, Any]:  # Any: as PEFT takes them
        """The arguments of ``peft.LoraConfig`` that are not its defaults, in a fixed order."""
        rank, alpha = most_common(self.ranks.values()), most_common(self.alphas.values())
        optional = {
            "alpha_pattern": {name: value for name, value in sorted(self.alphas.items()) if value != alpha},
            "rank_pattern": {name: value for name, value in sorted(self.ranks.items()) if value != rank},
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        }
        return {
            "lora_alpha": alpha,
            "r": rank,
            "target_modules": sorted(self.ranks),
            **{name: value for name, value in optional.items() if value},
        }


def most_common(values: Iterable[Any]) -> Any:  # Any: ranks or alphas
    """The value that occurs most often; the smallest of several."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def parts_of(base: LoadedBase) -> dict[str, torch.nn.Module]:
    """The modules of a base that an adapter can be attached to, by the name of the part."""
    return {UNET: base.unet, **base.text_encoders}


def placements_of(base: LoadedBase, settings: LoraSettings) -> dict[str, Placement]:
    """What settings ask for on this base, by part; ValueError where nothing matches."""
    names = {UNET: base.lora_targets(settings.targets)}
    if settings.text_encoder != "none":
        found = base.text_lora_targets(settings.text_encoder)
        names |= {part: [flat_name(name) for name in modules] for part, modules in found.items()}
    rank_pattern, alpha_pattern = settings.rank_pattern or {}, settings.alpha_pattern or {}
    unused = {*rank_pattern, *alpha_pattern}
    placements = {}
    for part, modules in names.items():
        prefix = "" if part == UNET else f"{part}."
        ranks, alphas = {}, {}
        for module in modules:
            rank_key = _first_match(rank_pattern, prefix + module, key="rank_pattern")
            alpha_key = _first_match(alpha_pattern, prefix + module, key="alpha_pattern")
            ranks[module] = settings.rank if rank_key is None else rank_pattern[rank_key]
            alphas[module] = float(settings.alpha if alpha_key is None else alpha_pattern[alpha_key])
            unused -= {rank_key, alpha_key}
        placements[part] = Placement(
            ranks=ranks, alphas=alphas, rslora=settings.variant == "rslora", dora=settings.variant == "dora"
        )
    if unused:
        raise ValueError(
            f"the pattern {min(unused)!r} matches none of the {sum(map(len, names.values()))} modules that get an "
            f"adapter, such as {names[UNET][0]} (lora.rank_pattern, lora.alpha_pattern)"
        )
    return placements


def _first_match(patterns: Mapping[str, object], name: str, *, key: str) -> str | None:
    try:
        return next((pattern for pattern in patterns if re.fullmatch(rf"(.*\.)?(?:{pattern})", name)), None)
    except re.error as error:
        raise ValueError(f"{key} of lora holds what is no regular expression: {error.pattern!r}, {error}") from error


def flat_name(module: str) -> str:
    """A text encoder's module as transformers >= 5.6 names it."""
    return module.removeprefix(TEXT_MODEL)


def file_name(part: str, module: str) -> str:
    """A module in an adapter's file: ``unet.<module>``, ``text_encoder.text_model.<module>``."""
    return f"{part}.{module}" if part == UNET else f"{part}.{TEXT_MODEL}{module}"
