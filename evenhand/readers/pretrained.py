"""Loads what a reader needs from a packaged model, a folder or a hub id: safetensors only, and no repository's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenhand.paths import model_path

if TYPE_CHECKING:
    import torch


def load_network(
    loader: Any,  # Any: an Auto class of transformers, which has no types
    model: str,
    *,
    revision: str | None,
    reader: str,
    device: torch.device,
) -> Any:  # Any: transformers has no types
    """The network in float32 on the device, for inference; ValueError when it is not there or has no safetensors."""
    try:
        network = loader.from_pretrained(
            model_path(model), revision=revision, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ImportError, ValueError) as error:
        raise _cannot_load(reader, model, error) from error
    return network.float().eval().requires_grad_(False).to(device)


def load_image_processor(model: str, *, revision: str | None, reader: str) -> Any:  # Any: transformers has no types
    """The model's image processor on PIL, which gives the same pixels whether or not torchvision is installed."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            model_path(model), revision=revision, backend="pil", trust_remote_code=False
        )
    except (OSError, ImportError, ValueError) as error:
        raise _cannot_load(reader, model, error) from error


def load_text_part(
    loader: Any,  # Any: AutoTokenizer or AutoProcessor of transformers, which have no types
    model: str,
    *,
    revision: str | None,
    reader: str,
) -> Any:  # Any: transformers has no types
    """The model's tokenizer, or the processor of a chat model."""
    try:
        return loader.from_pretrained(model_path(model), revision=revision, trust_remote_code=False)
    except (OSError, ImportError, ValueError) as error:
        raise _cannot_load(reader, model, error) from error


def _cannot_load(reader: str, model: str, error: Exception) -> ValueError:
    return ValueError(f"reader {reader}: cannot load {model}: {error}")
