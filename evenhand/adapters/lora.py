"""Adapters on a base: attach, save for stock diffusers, load with a check of the base, scale, take off.

An adapter sits on the UNet and, where its settings say so, on the text encoders. The layers are PEFT's, under the name
that its and diffusers' own functions use, so that those work on them too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.adapters.card import AdapterCard, model_card, public_model
from evenhand.adapters.file import (
    DOWN,
    FINGERPRINT_KEY,
    MAGNITUDE,
    UP,
    WEIGHTS_NAME,
    ZERO_SNR_KEY,
    AdapterFile,
    file_key,
    header_of,
    read_adapter,
    safetensors_bytes,
)
from evenhand.adapters.init import initial_values
from evenhand.adapters.placement import UNET, Placement, flat_name, parts_of, placements_of
from evenhand.adapters.settings import LoraSettings
from evenhand.files import atomic_path, sha256_file, write_json_atomic, write_text_atomic
from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

ADAPTER_NAME = "default"
FILE_ENDS = {
    f"lora_A.{ADAPTER_NAME}.weight": DOWN,
    f"lora_B.{ADAPTER_NAME}.weight": UP,
    f"lora_magnitude_vector.{ADAPTER_NAME}.weight": MAGNITUDE,
}


class Adapter:
    """An adapter on ``base``. ``placements`` tell by part which modules have one, and how strong.

    ``parameters`` are its tensors by name, the only trainable ones of the base; those of a text encoder have the part's
    name before theirs.
    """

    def __init__(self, base: LoadedBase, settings: LoraSettings, placements: Mapping[str, Placement]) -> None:
        self.base = base
        self.settings = settings
        self.placements = placements
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self._names: dict[tuple[str, str, str], str] = {}
        for part, module in parts_of(base).items():
            for name, parameter in module.named_parameters():
                if part in placements and name.endswith(tuple(FILE_ENDS)):
                    own_name = name if part == UNET else f"{part}.{name}"
                    self.parameters[own_name] = parameter
                    self._names[_file_place(part, name)] = own_name

    @property
    def trains_text(self) -> bool:
        """Whether it changes what a text encoder gives, so that no embedding of before can be used with it."""
        return any(part != UNET for part in self.placements)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights on CPU, by parameter name."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}

    def set_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put weights back that ``tensors`` gave."""
        import torch

        if set(tensors) != set(self.parameters):
            strange = sorted(set(tensors) ^ set(self.parameters))
            raise ValueError(
                f"these adapter weights do not fit: {len(strange)} names differ, the first is {strange[0]}"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def keyed(self) -> dict[tuple[str, str, str], torch.nn.Parameter]:
        """The parameters by (part, module, end of key), as an ``AdapterFile`` has its tensors."""
        return {key: self.parameters[name] for key, name in self._names.items()}

    def save(self, folder: Path, card: AdapterCard) -> Path:
        """Write the adapter folder; gives the path of the weights. Equal weights and card give equal bytes."""
        tensors = {file_key(*key): value.detach().cpu().contiguous() for key, value in self.keyed().items()}
        made = {**dataclasses.asdict(card), "base_model": public_model(card.base_model)}
        facts = {f"evenhand.{name}": _text(value) for name, value in made.items()}
        facts |= {FINGERPRINT_KEY: self.base.fingerprint, ZERO_SNR_KEY: _text(self.base.zero_terminal_snr)}
        with atomic_path(folder / WEIGHTS_NAME) as temporary:
            temporary.write_bytes(safetensors_bytes(tensors, header_of(self.placements, facts)))
        described = {
            **made,
            "base_fingerprint": self.base.fingerprint,
            "zero_terminal_snr": self.base.zero_terminal_snr,
            "rank": self.settings.rank,
            "alpha": self.settings.alpha,
            "variant": self.settings.variant,
            "targets": self.settings.targets,
            "text_encoder": self.settings.text_encoder,
            "rank_pattern": dict(self.settings.rank_pattern or {}),
            "alpha_pattern": dict(self.settings.alpha_pattern or {}),
            "init": self.settings.init,
            "num_modules": sum(len(placement.ranks) for placement in self.placements.values()),
            "num_parameters": sum(parameter.numel() for parameter in self.parameters.values()),
            "weights_sha256": sha256_file(folder / WEIGHTS_NAME),
        }
        write_json_atomic(folder / "card.json", described)
        write_text_atomic(folder / "README.md", model_card(described))
        return folder / WEIGHTS_NAME


def _file_place(part: str, name: str) -> tuple[str, str, str]:
    """Part, module and end of key of a parameter of that name."""
    module, _, end = name.rpartition(".lora_")
    return part, module if part == UNET else flat_name(module), FILE_ENDS[f"lora_{end}"]


def attach(base: LoadedBase, settings: LoraSettings, *, seed: int) -> Adapter:
    """A fresh adapter in float32, drawn from the seed, that changes nothing yet (``init: orthogonal``: up to rounding).

    Its layers compute as PEFT's do, with fewer operations (``lowrank``).
    """
    from evenhand.adapters.lowrank import lean_layers

    adapter = _add(base, settings, placements_of(base, settings))
    keyed = adapter.keyed()
    for part, module in {(part, module): None for part, module, _ in keyed}:
        down, up = keyed[part, module, DOWN], keyed[part, module, UP]
        name = adapter._names[part, module, DOWN]
        down.data, up.data = (
            value.to(down.device) for value in initial_values(settings.init, name, down, up, seed=seed)
        )
    parts = parts_of(base)
    for part in adapter.placements:
        lean_layers(parts[part])
    for parameter in adapter.parameters.values():
        # fp32 whatever the base's precision is: in bf16 most updates are smaller than the last bit
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return adapter


def load(base: LoadedBase, path: Path, *, check_base: bool = True) -> Adapter:
    """Load an adapter folder or file onto ``base``, frozen; ValueError for the wrong base or keys that do not fit.

    ``check_base=False`` is for adapters that other tools trained: they do not say which base they belong to.
    """
    return load_content(base, read_adapter(path), check_base=check_base)


def load_content(base: LoadedBase, content: AdapterFile, *, check_base: bool = True) -> Adapter:
    """As ``load``, for what was read already, or was made in memory."""
    import torch

    if check_base:
        require_base(base, content)
    parts = parts_of(base)
    _check_modules(base, content, parts)
    adapter = _add(base, _settings_of(content), content.placements)
    keyed = adapter.keyed()
    dtypes = {part: next(module.parameters()).dtype for part, module in parts.items()}
    for key, value in content.tensors.items():
        parameter = keyed[key]
        if parameter.numel() != value.numel():
            detach(base)
            raise ValueError(
                f"adapter {content.path}: {file_key(*key)} has shape {tuple(value.shape)}, but on base "
                f"{base.name} it must be {tuple(parameter.shape)}"
            )
        with torch.no_grad():
            parameter.data = value.to(device=parameter.device, dtype=dtypes[key[0]]).view(parameter.shape)
    for parameter in adapter.parameters.values():
        parameter.requires_grad_(False)
    for part in content.placements:
        parts[part].eval()
    return adapter


def detach(base: LoadedBase) -> None:
    """Take the adapter off, if there is one; the base's own modules and weights are then as they were."""
    from diffusers.utils import recurse_remove_peft_layers

    from evenhand.adapters.lowrank import plain_layers

    for part in parts_of(base).values():
        if ADAPTER_NAME in (getattr(part, "peft_config", None) or {}):
            plain_layers(part)
            holder: Any = part  # Any: what these attributes are is not told to type checkers
            recurse_remove_peft_layers(holder)
            del holder.peft_config
            holder._hf_peft_config_loaded = False


@contextmanager
def scaled(base: LoadedBase, scale: float) -> Iterator[None]:
    """Inside, the adapter's addition is multiplied by ``scale``, as ``set_adapters`` of diffusers does it.

    At 0 the base's images come out bit for bit. A DoRA's row lengths have no scale, so at 0 it is switched off.
    """
    from diffusers.utils import set_weights_and_activate_adapters

    def set_scale(value: float) -> None:
        for part in parts_of(base).values():
            if ADAPTER_NAME in (getattr(part, "peft_config", None) or {}):
                set_weights_and_activate_adapters(part, [ADAPTER_NAME], [value])

    with base.without_adapter() if scale == 0 and _has_magnitudes(base) else nullcontext():
        set_scale(scale)
        try:
            yield
        finally:
            set_scale(1.0)


def _has_magnitudes(base: LoadedBase) -> bool:
    return any(MAGNITUDE in name for part in parts_of(base).values() for name, _ in part.named_parameters())


def _add(base: LoadedBase, settings: LoraSettings, placements: Mapping[str, Placement]) -> Adapter:
    """Put PEFT's layers on the base's parts, as it makes them; ValueError where there are some already."""
    import torch
    from peft import LoraConfig

    parts = parts_of(base)
    if any(ADAPTER_NAME in (getattr(part, "peft_config", None) or {}) for part in parts.values()):
        raise ValueError("an adapter is attached to this base already (take it off with evenhand.adapters.lora.detach)")
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator; its draws are replaced
        for part, placement in placements.items():
            holder: Any = parts[part]  # Any: diffusers has no types
            holder.add_adapter(LoraConfig(**placement.peft_settings()), adapter_name=ADAPTER_NAME)
    return Adapter(base, settings, placements)


def _settings_of(content: AdapterFile) -> LoraSettings:
    """What is known of a file's settings: the commonest rank and alpha, and the variant."""
    first = content.placements.get(UNET) or next(iter(content.placements.values()))
    common = first.peft_settings()
    return LoraSettings(
        rank=common["r"],
        alpha=common["lora_alpha"],
        targets="loaded",
        text_encoder="loaded" if len(content.placements) > (UNET in content.placements) else "none",
        variant="dora" if first.dora else "rslora" if first.rslora else "lora",
    )


def require_base(base: LoadedBase, content: AdapterFile) -> None:
    """Raise ValueError unless the adapter says that it belongs to this base."""
    header, file = content.header, content.path
    if FINGERPRINT_KEY not in header:
        raise ValueError(f"adapter {file} does not say which base it belongs to (check_base=false loads it anyway)")
    if header[FINGERPRINT_KEY] != base.fingerprint:
        raise ValueError(
            f"adapter {file} was trained on base {header.get('evenhand.base', 'unknown')} "
            f"({header[FINGERPRINT_KEY][:12]}), but the base here is {base.name} ({base.fingerprint[:12]}): "
            "choose the base that it was trained on"
        )
    trained_with = header.get(ZERO_SNR_KEY, _text(False))
    if trained_with != _text(base.zero_terminal_snr):
        raise ValueError(
            f"adapter {file} was trained with zero_terminal_snr={trained_with}, but the base here has "
            f"{_text(base.zero_terminal_snr)} (base.zero_terminal_snr={trained_with})"
        )


def _check_modules(base: LoadedBase, content: AdapterFile, parts: Mapping[str, torch.nn.Module]) -> None:
    """Raise ValueError unless the base has every module that the file has tensors for."""
    for part, placement in content.placements.items():
        if part not in parts:
            raise ValueError(f"adapter {content.path} is also for {part}, which base {base.name} does not have")
        known = {name if part == UNET else flat_name(name) for name, _ in parts[part].named_modules()}
        if lost := [module for module in placement.ranks if module not in known]:
            raise ValueError(
                f"adapter {content.path} does not fit base {base.name}: {len(lost)} of {len(placement.ranks)} modules "
                f"of {part} are not there, the first is {lost[0]}"
            )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
