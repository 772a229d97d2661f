"""Find a pipeline checkpoint, load it without noise on the screen, and tell by hash which weights it holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.files import read_json, sha256_json
from evenhand.paths import model_path

if TYPE_CHECKING:
    import torch

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
RELEASED = "base {name}: its VAE and text encoders were released from memory, so it can no longer encode or make images"
LORA_PARAMETER = re.compile(r"\.lora_[A-Za-z_]+\.")


def load_pipeline(
    class_name: str,
    *,
    name: str,
    model: str,
    revision: str | None,
    variant: str | None,
    dtype: torch.dtype,
    components: Mapping[str, object],
) -> Any:  # Any: diffusers has no types
    """The pipeline of a folder, a packaged model or a hub id; one clear ValueError when it is not there.

    ``class_name`` is that of diffusers; ``components`` are the parts to leave out or replace, as ``from_pretrained``
    takes them.
    """
    path = _existing(name, model)
    here = Path(path).is_dir()
    try:
        index_path = Path(path, "model_index.json") if here else _downloaded(path, "model_index.json", revision)
        found = read_json(index_path)["_class_name"]
        if found != class_name:
            raise ValueError(
                f"base {name}: {model} is a {found}, but this base loads a {class_name} (choose another base=)"
            )
        with quiet_loading():
            import diffusers

            return getattr(diffusers, class_name).from_pretrained(
                path, revision=revision, variant=variant, dtype=dtype, use_safetensors=True, **components
            )
    except OSError as error:
        raise ValueError(_cannot_load(name, model, revision, variant, error)) from error


def load_tokenizer(subfolder: str, *, name: str, model: str, revision: str | None) -> Any:  # Any: as load_pipeline
    """A tokenizer of a pipeline without the rest of it; the same ValueErrors as ``load_pipeline``."""
    path = _existing(name, model)
    try:
        with quiet_loading():
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(path, subfolder=subfolder, revision=revision)
    except OSError as error:
        raise ValueError(_cannot_load(name, model, revision, None, error)) from error


def _existing(name: str, model: str) -> str:
    """Where a model is: a pipeline folder, or a hub id as it is."""
    path = model_path(model)
    here = Path(path).is_dir()
    if not here and not HUB_ID.fullmatch(path):
        raise ValueError(
            f"base {name}: model folder {path!r} does not exist (give a folder or a hub id, base.model=...)"
        )
    if here and not Path(path, "model_index.json").is_file():
        raise ValueError(f"base {name}: {path} holds no model_index.json, so it is not a diffusers pipeline folder")
    return path


def _cannot_load(name: str, model: str, revision: str | None, variant: str | None, error: OSError) -> str:
    return (
        f"base {name}: cannot load {model!r} (revision {revision}, variant {variant}): "
        f"{str(error).strip().splitlines()[0]} "
        "(is it downloaded? a local pipeline folder works offline: base.model=<folder>)"
    )


def _downloaded(hub_id: str, file_name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(hub_id, file_name, revision=revision))


def freeze(module: torch.nn.Module, *, device: torch.device, dtype: torch.dtype) -> None:
    """Put a module on its device and in its precision, without gradients and in evaluation mode."""
    with quiet_loading():
        module.to(device=device, dtype=dtype)
    module.requires_grad_(False).eval()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Loading bars and advice of diffusers and transformers switched off inside, and as they were afterwards."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    modules = (diffusers_logging, transformers_logging)
    before = [(module, module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, verbosity, had_bar in before:
            module.set_verbosity(verbosity)
            if had_bar:
                module.enable_progress_bar()


def weights_fingerprint(*modules: torch.nn.Module) -> str:
    """Sha256 over the sorted names, shapes and fp16 bytes of the weights, adapters left out.

    fp16, because checkpoints are published in fp16 and fp32: both give the same fingerprint, and so does a model that
    was loaded in either. A model cast to bf16 does not, so take the fingerprint before such a cast.
    """
    import torch

    digest = hashlib.sha256()
    for index, module in enumerate(modules):
        tensors = {
            key.replace(".base_layer.", "."): value
            for key, value in module.state_dict().items()
            if not LORA_PARAMETER.search(key) and value.is_floating_point()
        }
        for key in sorted(tensors):
            value = tensors[key].detach().to(torch.float16).cpu().contiguous()
            digest.update(f"{index}:{key}:{tuple(value.shape)}\n".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


# Where a part was loaded from and by which version, and hints for a loader, do not decide what it computes.
NOT_IN_A_PART = ("transformers_version", "dtype", "torch_dtype", "architectures")
# A tokenizer's library keeps the padding of its last call in it.
LEFT_BY_A_CALL = ("truncation", "padding")


def sampler_facts(pipeline: Any) -> dict[str, Any]:  # Any: diffusers has no types; the facts are JSON
    """What decides a pipeline's images beside its weights and its arguments: scheduler, and each part's settings.

    The scheduler is spelled out, other parts are given by class and sha256 of their settings; None is a part that the
    pipeline does without, such as a safety checker.
    """
    scheduler = {"class": type(pipeline.scheduler).__name__, **_settings(pipeline.scheduler)}
    parts = {name: part for name, part in pipeline.components.items() if part is not pipeline.scheduler}
    return {
        "pipeline": type(pipeline).__name__,
        "scheduler": scheduler,
        **{
            name: None if part is None else f"{type(part).__name__} {sha256_json(_settings(part))}"
            for name, part in sorted(parts.items())
        },
    }


def _settings(part: Any) -> dict[str, Any]:  # Any: a module, tokenizer or scheduler of any class; JSON
    if hasattr(part, "backend_tokenizer"):
        content = json.loads(part.backend_tokenizer.to_str())
        kept = {key: value for key, value in content.items() if key not in LEFT_BY_A_CALL}
        return {**kept, "model_max_length": part.model_max_length}
    config = part.config
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        str(key): value for key, value in settings.items() if key not in NOT_IN_A_PART and not str(key).startswith("_")
    }


def networks(pipeline: Any) -> dict[str, torch.nn.Module]:  # Any: diffusers has no types
    """The networks that a pipeline holds, by name."""
    import torch

    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
