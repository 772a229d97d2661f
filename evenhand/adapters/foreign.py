"""Adapters of other origin: LoRA files in the layout of kohya's trainer, as A1111 and ComfyUI have it.

A module is called by its path with underscores for dots, after ``lora_unet_``, ``lora_te_`` or for SDXL ``lora_te1_``
and ``lora_te2_``; SDXL's UNet is mostly named after its original checkpoint (``input_blocks_4_1_``). Alpha stands
beside each pair of weights. A name is looked up among the base's own modules, so that none is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.adapters.file import DOWN, FINGERPRINT_KEY, UP, ZERO_SNR_KEY, AdapterFile, find_file, read_adapter
from evenhand.adapters.placement import UNET, Placement, flat_name, parts_of
from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

PREFIXES = {"lora_unet_": UNET, "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
ENDS = {".lora_down.weight": DOWN, ".lora_up.weight": UP, ".alpha": "alpha"}
# Parts of a block of the original checkpoint, by diffusers' names.
RESNET_PARTS = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
MIDDLE = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}
ORIGINAL = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_(.+)")


def read_any(path: Path, base: LoadedBase) -> AdapterFile:
    """An adapter folder or file with diffusers' or kohya's keys; ValueError for others, and for modules not there."""
    from safetensors import SafetensorError, safe_open

    file = find_file(path)
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            names = list(opened.keys())
            if not any(name.startswith(tuple(PREFIXES)) for name in names):
                return read_adapter(path)
            raw = {name: opened.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"adapter {file} is no safetensors file: {error}") from error
    by_part = _by_part(file, raw, base)
    placements = {part: _placement(file, found) for part, found in by_part.items()}
    tensors = {
        (part, module, end): value
        for part, found in by_part.items()
        for (module, end), value in found.items()
        if end in (DOWN, UP)
    }
    own = {key: value for key, value in header.items() if key.startswith("evenhand.")}
    return AdapterFile(path=file, header=own, placements=placements, tensors=tensors)


def for_any_base(content: AdapterFile) -> AdapterFile:
    """The same without what it says of its base: files of other tools say nothing, and the user vouches for all."""
    header = {key: value for key, value in content.header.items() if key not in (FINGERPRINT_KEY, ZERO_SNR_KEY)}
    return replace(content, header=header)


def _by_part(
    file: Path, raw: Mapping[str, torch.Tensor], base: LoadedBase
) -> dict[str, dict[tuple[str, str], torch.Tensor]]:
    """The tensors of each part by module and end of key."""
    known = {
        part: {flat_name(name).replace(".", "_"): flat_name(name) for name, _ in module.named_modules()}
        for part, module in parts_of(base).items()
    }
    unet: object = base.unet
    layers = getattr(getattr(unet, "config", None), "layers_per_block", 2)
    found: dict[str, dict[tuple[str, str], torch.Tensor]] = {}
    for key, value in raw.items():
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
        ending = next((ending for ending in ENDS if key.endswith(ending)), None)
        if prefix is None or ending is None:
            raise ValueError(
                f"adapter {file}: {key} is no key of a plain LoRA (LoHa, LoKr, OFT, DoRA and convolutions with a "
                "middle part are not read in this layout)"
            )
        part, name = PREFIXES[prefix], key.removeprefix(prefix).removesuffix(ending)
        flat = diffusers_name(name, layers) if part == UNET else name.removeprefix("text_model_")
        module = known.get(part, {}).get(flat)
        if module is None:
            raise ValueError(f"adapter {file} does not fit base {base.name}: {part} has no module for {key}")
        found.setdefault(part, {})[module, ENDS[ending]] = value
    return found


def diffusers_name(name: str, layers: int) -> str:
    """A UNet module's name with underscores, as diffusers has it; ``layers`` are those of a block (SDXL: 2)."""
    match = ORIGINAL.fullmatch(name)
    if match is None:
        return name
    kind, index, rest = match[1], int(match[2]), match[3]
    if kind == "middle_block":
        return f"mid_block_{MIDDLE.get(match[2], '')}_{RESNET_PARTS.get(rest, rest)}"
    number, _, inner = rest.partition("_")
    if kind == "input_blocks":
        block, layer = divmod(index - 1, layers + 1)
        if layer == layers:
            return f"down_blocks_{block}_downsamplers_0_conv"
        place = f"down_blocks_{block}"
    else:
        block, layer = divmod(index, layers + 1)
        place = f"up_blocks_{block}"
        if inner == "conv":
            return f"{place}_upsamplers_0_conv"
    if number == "0":
        return f"{place}_resnets_{layer}_{RESNET_PARTS.get(inner, inner)}"
    return f"{place}_attentions_{layer}_{inner}"


def _placement(file: Path, found: Mapping[tuple[str, str], torch.Tensor]) -> Placement:
    """Ranks from the tensors, alphas from the file; without one it is the rank."""
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module in sorted({module for module, _ in found}):
        if (module, DOWN) not in found or (module, UP) not in found:
            raise ValueError(f"adapter {file}: {module} lacks lora_down or lora_up, which belong together")
        ranks[module] = int(found[module, DOWN].shape[0])
        if found[module, UP].shape[1] != ranks[module]:
            raise ValueError(
                f"adapter {file}: {module} has rank {ranks[module]} in lora_down and {found[module, UP].shape[1]} in "
                "lora_up"
            )
        alpha = found.get((module, "alpha"))
        alphas[module] = float(ranks[module]) if alpha is None else float(alpha)
    return Placement(ranks=ranks, alphas=alphas, rslora=False, dora=False)
