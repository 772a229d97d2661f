"""An adapter in the layout that ComfyUI and A1111 read, named after kohya's trainer.

Names are module paths with underscores after ``lora_unet_``, ``lora_te_`` (SD) or ``lora_te1_`` and ``lora_te2_``
(SDXL), and alpha stands beside each pair of weights: those programs do not look at the header and divide alpha by the
rank. diffusers' own converter is not used: it writes alpha = rank, and a text encoder's names without ``text_model``.
All modules get one alpha, since diffusers misreads a file with several; a module of another one has it in its B.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evenhand.adapters.file import DOWN, MAGNITUDE, UP, AdapterFile, read_adapter, safetensors_bytes
from evenhand.adapters.placement import TEXT_MODEL, UNET, Placement, most_common

ENDS = {DOWN: "lora_down.weight", UP: "lora_up.weight"}


def kohya_bytes(path: Path) -> bytes:
    """An adapter folder or file as the bytes of a kohya file; ValueError for what that layout cannot say."""
    import torch

    content = read_adapter(path)
    _refuse(content)
    names, renamed = kohya_names(content.placements), {}
    # these programs compute alpha / rank: for rsLoRA, alpha is what gives alpha / sqrt(rank)
    alphas = {
        (part, module): placement.scale(module) * rank
        for part, placement in content.placements.items()
        for module, rank in placement.ranks.items()
    }
    alpha = most_common(alphas.values())
    for (part, module, end), value in content.tensors.items():
        name, ratio = names[part, module], alphas[part, module] / alpha
        renamed[f"{name}.{ENDS[end]}"] = value * ratio if end == UP and ratio != 1.0 else value
        renamed[f"{name}.alpha"] = torch.tensor(alpha)
    kept = {key: value for key, value in content.header.items() if key.startswith("evenhand.")}
    return safetensors_bytes(renamed, {"format": "pt", **kept})


def kohya_names(placements: Mapping[str, Placement]) -> dict[tuple[str, str], str]:
    """What each (part, module) is called."""
    two_encoders = "text_encoder_2" in placements
    return {
        (part, module): _prefix(part, two_encoders=two_encoders) + module.replace(".", "_")
        for part, placement in placements.items()
        for module in placement.ranks
    }


def _prefix(part: str, *, two_encoders: bool) -> str:
    if part == UNET:
        return "lora_unet_"
    number = {"text_encoder": "1" if two_encoders else "", "text_encoder_2": "2"}[part]
    return f"lora_te{number}_{TEXT_MODEL.replace('.', '_')}"


def _refuse(content: AdapterFile) -> None:
    """Raise ValueError for an adapter that would come out as another one."""
    if "lora_adapter_metadata" not in content.header:
        raise ValueError(f"adapter {content.path} has no LoRA settings in its header, so its alpha is not known")
    if any(end == MAGNITUDE for _, _, end in content.tensors):
        raise ValueError(
            f"adapter {content.path} is a DoRA, which has no layout that all programs read alike: ComfyUI divides a "
            "row's length by that of the base's row, DoRA by that of the adapted row (use the diffusers file, or train "
            "with lora.variant=lora or rslora)"
        )
