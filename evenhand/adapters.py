"""LoRA adapters on a base's UNet: attach, save for stock diffusers, load with a check of the base, scale, take off.

The file has diffusers keys. Its header holds the three LoRA settings that stock loaders need, and no more: a loader
refuses settings that its own version of PEFT does not know, and without the header it takes alpha to be the rank.
Header entries (by safetensors) and target modules (by PEFT) come in random order, so both are sorted here. All keys end
in ``lora_A`` and ``lora_B``: ``convert_state_dict_to_diffusers`` renames those of attention only, and a loader that
meets such a mixture drops, without a word, the half that its first key does not stand for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evenhand.files import atomic_path, sha256_file, write_json_atomic, write_text_atomic
from evenhand.interfaces import LoadedBase
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

ADAPTER_NAME = "default"
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
FINGERPRINT_KEY = "evenhand.base_fingerprint"
HEADER_ALIGNMENT_BYTES = 8  # safetensors pads its header with spaces to this
LENGTH_BYTES = 8  # and stands the header's length before it, little-endian


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Which modules of the UNet get a low-rank addition of ``alpha / rank * B A``, and of which rank.

    ``targets`` is a preset of the base; ``loaded`` stands for those that an adapter file names.
    """

    rank: int
    alpha: float
    targets: Literal["cross_attention_kv", "attention", "attention_feedforward", "all", "loaded"]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank} (lora.rank)")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {self.alpha} (lora.alpha)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What an adapter was made from, for its header, ``card.json`` and model card; no time, so equal runs are equal."""

    name: str
    base: str
    base_model: str
    method: str
    steps: int
    seed: int
    concepts: tuple[str, ...]
    data_sha256: str
    config_sha256: str
    version: str


class Adapter:
    """LoRA weights on ``base.unet``: ``parameters`` by name, float32, the only trainable ones."""

    def __init__(self, base: LoadedBase, settings: LoraSettings) -> None:
        self.base = base
        self.settings = settings
        self.parameters: dict[str, torch.nn.Parameter] = {
            name: parameter for name, parameter in base.unet.named_parameters() if ".lora_" in name
        }

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

    def save(self, folder: Path, card: AdapterCard) -> Path:
        """Write the adapter folder; gives the path of the weights. Equal weights and card give equal bytes."""
        from diffusers import StableDiffusionPipeline
        from peft import get_peft_model_state_dict

        modules = sorted({name.partition(".lora_")[0] for name in self.parameters})
        settings = {"r": self.settings.rank, "lora_alpha": self.settings.alpha, "target_modules": modules}
        header = {
            "format": "pt",
            "lora_adapter_metadata": json.dumps({f"unet.{key}": settings[key] for key in sorted(settings)}),
            FINGERPRINT_KEY: self.base.fingerprint,
            **{f"evenhand.{field.name}": _text(getattr(card, field.name)) for field in dataclasses.fields(card)},
        }

        def write(tensors: dict[str, torch.Tensor], path: str) -> None:
            with atomic_path(Path(path)) as temporary:
                temporary.write_bytes(safetensors_bytes(tensors, header))

        weights = {
            key: value.detach().cpu().contiguous()
            for key, value in get_peft_model_state_dict(self.base.unet, adapter_name=ADAPTER_NAME).items()
        }
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights, save_function=write)
        facts = {
            **dataclasses.asdict(card),
            "base_fingerprint": self.base.fingerprint,
            "rank": self.settings.rank,
            "alpha": self.settings.alpha,
            "targets": self.settings.targets,
            "num_modules": len(modules),
            "num_parameters": sum(parameter.numel() for parameter in self.parameters.values()),
            "weights_sha256": sha256_file(folder / WEIGHTS_NAME),
        }
        write_json_atomic(folder / "card.json", facts)
        write_text_atomic(folder / "README.md", model_card(facts))
        return folder / WEIGHTS_NAME


def attach(base: LoadedBase, settings: LoraSettings, *, seed: int) -> Adapter:
    """A fresh adapter that changes nothing yet: B is zero, A is drawn from the seed."""
    import torch
    from peft import LoraConfig

    targets = base.lora_targets(settings.targets)
    unet: Any = base.unet  # Any: diffusers has no types
    _refuse_second(unet)
    with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator; its draws are replaced below
        unet.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                target_modules=targets,
            ),
            adapter_name=ADAPTER_NAME,
        )
    adapter = Adapter(base, settings)
    for name, parameter in adapter.parameters.items():
        # fp32 whatever the base's precision is: in bf16 most updates are smaller than the last bit
        values = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(derive(seed, "adapter", name))
            torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)  # PEFT's own distribution
        parameter.data = values.to(parameter.device)
        parameter.requires_grad_(True)
    return adapter


def load(base: LoadedBase, path: Path, *, check_base: bool = True) -> Adapter:
    """Load an adapter folder or file onto ``base``, frozen; ValueError for the wrong base or keys that do not fit.

    ``check_base=False`` is for adapters that other tools trained: they do not say which base they belong to.
    """
    from safetensors import safe_open

    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"adapter not found: {file} does not exist (adapter=<folder that train/lora.py printed>)")
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open has no __iter__
    if check_base:
        _check_base(base, header, file)
    strangers = [key for key in tensors if not key.startswith("unet.")]
    if strangers:
        raise ValueError(
            f"adapter {file}: only UNet weights can be loaded, got {strangers[0]} and {len(strangers)} such"
        )
    unet: Any = base.unet  # Any: diffusers has no types
    _refuse_second(unet)
    metadata = json.loads(header["lora_adapter_metadata"]) if "lora_adapter_metadata" in header else None
    try:
        unet.load_lora_adapter(tensors, prefix="unet", metadata=metadata, adapter_name=ADAPTER_NAME)
    except ValueError as error:
        raise ValueError(f"adapter {file} does not fit base {base.name}: {error}") from error
    config = unet.peft_config[ADAPTER_NAME]
    adapter = Adapter(base, LoraSettings(rank=config.r, alpha=config.lora_alpha, targets="loaded"))
    # Diffusers only warns of keys that it does not know, and leaves what they were meant for as it was drawn.
    if num_lost := len(tensors) - _num_found(adapter, tensors):
        num_layers = len(adapter.parameters)
        detach(base)
        raise ValueError(
            f"adapter {file}: {num_lost} of {len(tensors)} tensors have keys that do not fit base {base.name}, "
            f"in which {num_layers} were expected"
        )
    if len(adapter.parameters) != len(tensors):
        num_layers = len(adapter.parameters)
        detach(base)
        raise ValueError(f"adapter {file}: {len(tensors)} tensors, but {num_layers} fit base {base.name}")
    for parameter in adapter.parameters.values():
        parameter.requires_grad_(False)
    unet.eval()
    return adapter


def _num_found(adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> int:
    """How many of a file's tensors are among the adapter's parameters, by content: formats name them differently."""

    def contents(values: Iterable[torch.Tensor], dtype: torch.dtype) -> Counter[tuple[tuple[int, ...], bytes]]:
        plain = [value.detach().cpu().to(dtype).float().contiguous() for value in values]
        return Counter((tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).digest()) for value in plain)

    if not adapter.parameters:
        return 0
    dtype = next(iter(adapter.parameters.values())).dtype
    return (contents(adapter.parameters.values(), dtype) & contents(tensors.values(), dtype)).total()


def detach(base: LoadedBase) -> None:
    """Take the adapter off, if there is one; the base's own modules and weights are then as they were."""
    unet: Any = base.unet  # Any: diffusers has no types
    if ADAPTER_NAME in getattr(unet, "peft_config", {}):
        unet.unload_lora()


@contextmanager
def scaled(base: LoadedBase, scale: float) -> Iterator[None]:
    """Inside, the adapter's addition is multiplied by ``scale``; at 0 the base's images come out bit for bit."""
    unet: Any = base.unet  # Any: diffusers has no types
    unet.set_adapters([ADAPTER_NAME], [scale])
    try:
        yield
    finally:
        unet.set_adapters([ADAPTER_NAME], [1.0])


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> bytes:
    """A safetensors file whose bytes depend on its content alone: the library writes header entries in random order."""
    from safetensors.torch import save

    plain = save(dict(tensors))
    length = int.from_bytes(plain[:LENGTH_BYTES], "little")
    entries = json.loads(plain[LENGTH_BYTES : LENGTH_BYTES + length])
    head = json.dumps({"__metadata__": dict(sorted(header.items())), **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % HEADER_ALIGNMENT_BYTES)
    return len(head).to_bytes(LENGTH_BYTES, "little") + head + plain[LENGTH_BYTES + length :]


def _check_base(base: LoadedBase, header: Mapping[str, str], file: Path) -> None:
    if FINGERPRINT_KEY not in header:
        raise ValueError(f"adapter {file} does not say which base it belongs to (check_base=false loads it anyway)")
    if header[FINGERPRINT_KEY] != base.fingerprint:
        raise ValueError(
            f"adapter {file} was trained on base {header.get('evenhand.base', 'unknown')} "
            f"({header[FINGERPRINT_KEY][:12]}), but the base here is {base.name} ({base.fingerprint[:12]}): "
            "choose the base that it was trained on"
        )


def _refuse_second(unet: Any) -> None:  # Any: diffusers has no types
    if ADAPTER_NAME in getattr(unet, "peft_config", {}):
        raise ValueError("an adapter is attached to this base already (take it off with evenhand.adapters.detach)")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def model_card(facts: Mapping[str, Any]) -> str:  # Any: the values of card.json
    """The README.md that goes with the weights to a model hub."""
    concepts = ", ".join(facts["concepts"])
    return f"""---
library_name: diffusers
base_model: {facts["base_model"]}
tags: [lora, text-to-image, debiasing]
---

# {facts["name"]}

A debiasing adapter for `{facts["base"]}`: a LoRA of rank {facts["rank"]} on {facts["num_modules"]} modules of the UNet
({facts["num_parameters"]:,} parameters), trained with evenhand {facts["version"]} by the method `{facts["method"]}` for
{facts["steps"]} steps. The base model itself is unchanged; at scale 0 its images come out bit for bit.

```python
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{facts["base_model"]}")
pipeline.load_lora_weights("<this folder>")
image = pipeline("a portrait of a mechanic", generator=torch.Generator().manual_seed(0)).images[0]
```

Trained on the concepts: {concepts}.

- weights sha256: `{facts["weights_sha256"]}`
- base UNet fingerprint: `{facts["base_fingerprint"]}`
- curated set sha256: `{facts["data_sha256"]}`
- config sha256: `{facts["config_sha256"]}`

What it changes and what it costs is not on this card: measure it with `evaluate/shift.py` against the base.
"""


def kohya_bytes(path: Path) -> bytes:
    """An adapter file in the layout that ComfyUI and A1111 read, as bytes to write.

    Names are module paths with underscores, and alpha stands beside each pair of weights: those programs do not look at
    the header. diffusers' own converter always writes alpha = rank, so it is not used.
    """
    import torch
    from safetensors import safe_open

    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"adapter not found: {file} does not exist (adapter=<folder that train/lora.py printed>)")
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open has no __iter__
    if "lora_adapter_metadata" not in header:
        raise ValueError(f"adapter {file} has no LoRA settings in its header, so its alpha is not known")
    alpha = float(json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"])
    renamed = {}
    for key, value in tensors.items():
        module, _, side = key.removesuffix(".weight").rpartition(".")
        name = "lora_unet_" + module.removeprefix("unet.").replace(".", "_")
        renamed[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        renamed[f"{name}.alpha"] = torch.tensor(alpha)
    kept = {key: value for key, value in header.items() if key.startswith("evenhand.")}
    return safetensors_bytes(renamed, {"format": "pt", **kept})
