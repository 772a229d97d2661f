"""The adapter's file: diffusers keys, and a header with the settings that stock loaders need and no more.

A loader refuses settings that its own version of PEFT does not know, and without the header it takes alpha to be the
rank. Header entries (by safetensors) and target modules (by PEFT) come in random order, so both are sorted here. All
keys end in ``lora_A``, ``lora_B`` and, for DoRA, ``lora_magnitude_vector``: ``convert_state_dict_to_diffusers`` renames
those of attention only, and a loader that meets such a mixture drops, without a word, the half that its first key does
not stand for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.adapters.placement import TEXT_MODEL, UNET, Placement, file_name, flat_name

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
SETTINGS_KEY = "lora_adapter_metadata"
FINGERPRINT_KEY = "evenhand.base_fingerprint"
ZERO_SNR_KEY = "evenhand.zero_terminal_snr"
DOWN, UP, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
TEXT_MAGNITUDE = MAGNITUDE + ".weight"
KNOWN_SETTINGS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
# Written by those who save all settings of PEFT; they say how an adapter was made, not what it computes.
HARMLESS_SETTINGS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
HEADER_ALIGNMENT_BYTES = 8  # safetensors pads its header with spaces to this
LENGTH_BYTES = 8  # and stands the header's length before it, little-endian


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """A file's content: the placement of each part, its tensors by (part, module, end of key), and the header."""

    path: Path
    header: Mapping[str, str]
    placements: Mapping[str, Placement]
    tensors: Mapping[tuple[str, str, str], torch.Tensor]


def find_file(path: Path) -> Path:
    """The weights of an adapter folder or file; ValueError when there are none."""
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"adapter not found: {file} does not exist (adapter=<folder that train/lora.py printed>)")
    return file


def read_adapter(path: Path) -> AdapterFile:
    """Read and check an adapter folder or file of diffusers keys.

    ValueError for keys of another format, for settings that are not understood, and where header and tensors disagree.
    Without settings in the header every alpha is the rank, as loaders take it.
    """
    from safetensors import SafetensorError, safe_open

    file = find_file(path)
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            raw = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open has no __iter__
    except SafetensorError as error:
        raise ValueError(f"adapter {file} is no safetensors file: {error}") from error
    by_part = _by_part(file, {_own_key(key): value for key, value in raw.items()})
    settings = _settings(file, header)
    if settings is not None and (odd := set(settings) ^ set(by_part)):
        raise ValueError(f"adapter {file}: header and tensors disagree, only one of them speaks of {min(odd)}")
    placements: dict[str, Placement] = {}
    tensors: dict[tuple[str, str, str], torch.Tensor] = {}
    for part, found in by_part.items():
        placements[part] = _placement(file, part, found, None if settings is None else settings[part])
        tensors |= {(part, module, end): value for (module, end), value in found.items()}
    return AdapterFile(path=file, header=header, placements=placements, tensors=tensors)


def _by_part(file: Path, raw: Mapping[str, torch.Tensor]) -> dict[str, dict[tuple[str, str], torch.Tensor]]:
    """The tensors of each part by module and end of key."""
    if not raw:
        raise ValueError(f"adapter {file} holds no tensors")
    found: dict[str, dict[tuple[str, str], torch.Tensor]] = {}
    for key, value in _one_style(raw).items():
        part, _, rest = key.partition(".")
        end = next((end for end in (DOWN, UP, MAGNITUDE) if rest.endswith("." + end)), None)
        if end is None or (part != UNET and not part.startswith("text_encoder")):
            raise ValueError(
                f"adapter {file}: {key} is no key of diffusers, unet.<module>.{DOWN} or text_encoder.<module>.{DOWN} "
                f"({len(raw)} tensors)"
            )
        module = rest.removesuffix("." + end)
        found.setdefault(part, {})[module if part == UNET else flat_name(module), end] = value
    return found


def file_key(part: str, module: str, end: str) -> str:
    """The key of a tensor in a file.

    A text encoder's magnitudes end in ``.weight``: without it transformers 5.23 leaves them as they were, and says so
    only in a table of missing keys that it also prints when all is well. diffusers writes the UNet's without it.
    """
    return f"{file_name(part, module)}.{TEXT_MAGNITUDE if end == MAGNITUDE and part != UNET else end}"


def _own_key(key: str) -> str:
    return key.removesuffix(".weight") if key.endswith(TEXT_MAGNITUDE) else key


def _one_style(raw: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Keys that end in ``lora_A.weight``; older files of diffusers have other ends."""
    if all(key.endswith((DOWN, UP, MAGNITUDE)) for key in raw):
        return raw
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    old = {key: value for key, value in raw.items() if not key.endswith((DOWN, UP, MAGNITUDE))}
    new = {key: value for key, value in raw.items() if key.endswith((DOWN, UP, MAGNITUDE))}
    unet = {key: value for key, value in old.items() if key.startswith(UNET + ".")}
    others = {key: value for key, value in old.items() if key not in unet}
    try:
        return {
            **new,
            **convert_unet_state_dict_to_peft(unet),
            **(convert_state_dict_to_peft(others) if others else {}),
        }
    except ValueError:  # what it does not know stays as it is and is named by the caller
        return raw


def _settings(file: Path, header: Mapping[str, str]) -> dict[str, dict[str, Any]] | None:  # Any: JSON
    """PEFT's settings of each part; None when the header has none."""
    if SETTINGS_KEY not in header:
        return None
    try:
        flat = json.loads(header[SETTINGS_KEY])
        split = [(key.partition("."), value) for key, value in flat.items()]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"adapter {file}: the LoRA settings in its header are no JSON object: {error}") from error
    settings: dict[str, dict[str, Any]] = {}  # Any: JSON
    defaults = _peft_defaults() if any(name not in KNOWN_SETTINGS for (_, _, name), _ in split) else {}
    for (part, _, name), value in split:
        if name in KNOWN_SETTINGS:
            settings.setdefault(part, {})[name] = value
        elif value and name not in HARMLESS_SETTINGS and value != defaults.get(name):
            raise ValueError(f"adapter {file} was made with {name}={value!r}, which is not understood here ({part})")
    return settings


def _peft_defaults() -> dict[str, Any]:  # Any: as PEFT has them
    from peft import LoraConfig

    config_class: Any = LoraConfig  # Any: PEFT has no types
    return dict(config_class().to_dict())


def _placement(
    file: Path,
    part: str,
    found: Mapping[tuple[str, str], torch.Tensor],
    settings: Mapping[str, Any] | None,  # Any: JSON
) -> Placement:
    """Ranks from the tensors, alphas from the settings; ValueError where the two disagree."""
    ends: dict[str, set[str]] = {}
    for module, end in found:
        ends.setdefault(module, set()).add(end)
    modules = sorted(ends)
    dora = any(MAGNITUDE in each for each in ends.values())
    wanted = {DOWN, UP, MAGNITUDE} if dora else {DOWN, UP}
    for module in modules:
        if ends[module] != wanted:
            raise ValueError(
                f"adapter {file}: {file_name(part, module)} has {_listed(ends[module])}, "
                f"but {_listed(wanted)} belong together"
            )
    ranks = {module: found[module, DOWN].shape[0] for module in modules}
    for module in modules:
        if found[module, UP].shape[1] != ranks[module]:
            raise ValueError(
                f"adapter {file}: {file_name(part, module)} has rank {ranks[module]} in {DOWN} "
                f"and {found[module, UP].shape[1]} in {UP}"
            )
    if settings is None:
        return Placement(ranks=ranks, alphas={m: float(r) for m, r in ranks.items()}, rslora=False, dora=dora)
    _agree(file, part, ranks, dora, settings)
    return Placement(
        ranks=ranks,
        alphas={module: float(_of(module, "lora_alpha", "alpha_pattern", settings)) for module in modules},
        rslora=bool(settings.get("use_rslora", False)),
        dora=dora,
    )


def _agree(
    file: Path,
    part: str,
    ranks: Mapping[str, int],
    dora: bool,
    settings: Mapping[str, Any],  # Any: JSON
) -> None:
    """Raise ValueError unless the header's settings describe the tensors."""
    if missing := [name for name in ("r", "lora_alpha", "target_modules") if name not in settings]:
        raise ValueError(f"adapter {file}: its header lacks {part}.{missing[0]}")
    targets = settings["target_modules"]
    if isinstance(targets, list):
        named = {flat_name(target) for target in targets}
        for module in ranks:
            if not any(module == target or module.endswith("." + target) for target in named):
                raise ValueError(
                    f"adapter {file}: it has tensors for {file_name(part, module)}, but its header does not"
                )
        for target in sorted(named):
            if not any(module == target or module.endswith("." + target) for module in ranks):
                raise ValueError(
                    f"adapter {file}: its header names {file_name(part, target)}, but it has no tensors for it"
                )
    for module, rank in ranks.items():
        if (told := _of(module, "r", "rank_pattern", settings)) != rank:
            raise ValueError(
                f"adapter {file}: header and tensors disagree about {file_name(part, module)}: rank {told} and {rank}"
            )
    if bool(settings.get("use_dora", False)) != dora:
        raise ValueError(
            f"adapter {file}: header and tensors disagree about {part}: use_dora is {not dora}, "
            f"but there are {'' if dora else 'no '}magnitudes"
        )


def _of(
    module: str,
    name: str,
    pattern_name: str,
    settings: Mapping[str, Any],  # Any: JSON
) -> Any:  # Any: a rank or an alpha
    """A module's value of a setting and its pattern, as PEFT finds it."""
    patterns: Mapping[str, Any] = settings.get(pattern_name) or {}  # Any: as above
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?(?:{pattern.removeprefix(TEXT_MODEL)})", module):
            return value
    return settings[name]


def _listed(ends: Iterable[str]) -> str:
    return " and ".join(sorted(ends))


def header_of(placements: Mapping[str, Placement], facts: Mapping[str, str]) -> dict[str, str]:
    """A header: the settings of all parts as stock loaders read them, and facts with names of their own."""
    settings = {
        f"{part}.{name}": value
        for part, placement in placements.items()
        for name, value in placement.peft_settings().items()
    }
    return {"format": "pt", SETTINGS_KEY: json.dumps(dict(sorted(settings.items()))), **facts}


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone: the library writes header entries in random order."""
    from safetensors.torch import save

    plain = save(dict(tensors))
    length = int.from_bytes(plain[:LENGTH_BYTES], "little")
    entries = json.loads(plain[LENGTH_BYTES : LENGTH_BYTES + length])
    head = json.dumps({"__metadata__": dict(sorted(header.items())), **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % HEADER_ALIGNMENT_BYTES)
    return len(head).to_bytes(LENGTH_BYTES, "little") + head + plain[LENGTH_BYTES + length :]
