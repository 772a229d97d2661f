"""What every text encoder of the family shares: captions that it would cut off, and which modules a preset names."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evenhand.bases.checkpoint import load_tokenizer

if TYPE_CHECKING:
    import torch

NO_TEXT = "none"
ATTENTION = r"\.self_attn\.(q_proj|k_proj|v_proj|out_proj)"
FEEDFORWARD = r"\.mlp\.(fc1|fc2)"
TEXT_PRESETS = {NO_TEXT: (), "attention": (ATTENTION,), "attention_feedforward": (ATTENTION, FEEDFORWARD)}


def check_lengths(
    tokenizer: Any,  # Any: a tokenizer of any class
    captions: Sequence[str],
) -> None:
    """Raise ValueError for a caption with more tokens, start and end included, than the tokenizer's encoder reads.

    What is cut off is not learned, and nobody sees it.
    """
    limit = tokenizer.model_max_length
    token_lists = tokenizer(list(captions), truncation=False, verbose=False).input_ids
    for caption, tokens in zip(captions, token_lists, strict=True):
        if len(tokens) > limit:
            raise ValueError(
                f"caption has {len(tokens)} tokens, but the text encoder reads {limit}: {caption!r} (shorten it)"
            )


def token_ids(
    tokenizer: Any,  # Any: a tokenizer of any class
    captions: Sequence[str],
) -> list[tuple[int, ...]]:
    """The tokens of each caption, start and end included; ValueError for one that would be cut off."""
    check_lengths(tokenizer, captions)
    return [tuple(tokens) for tokens in tokenizer(list(captions), truncation=False, verbose=False).input_ids]


def check_stored_lengths(
    captions: Sequence[str], *, where: str, tokenizers: Sequence[str], name: str, model: str, revision: str | None
) -> None:
    """``check_lengths`` by the named tokenizers of a pipeline that is not loaded; ``where`` the captions stand."""
    for subfolder in tokenizers:
        tokenizer = load_tokenizer(subfolder, name=name, model=model, revision=revision)
        try:
            check_lengths(tokenizer, captions)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def text_lora_targets(encoders: Mapping[str, torch.nn.Module], preset: str) -> dict[str, list[str]]:
    """For each text encoder, the full names of its layers that a preset names, in order; no encoders for ``none``."""
    if preset not in TEXT_PRESETS:
        raise ValueError(
            f"unknown LoRA targets {preset!r} of the text encoder; choose one of {', '.join(TEXT_PRESETS)} "
            "(lora.text_encoder)"
        )
    if preset == NO_TEXT:
        return {}
    rule = re.compile("(" + "|".join(TEXT_PRESETS[preset]) + r")$")
    found = {}
    for name, encoder in encoders.items():
        names = [module_name.replace(".base_layer", "") for module_name, _ in encoder.named_modules()]
        found[name] = list(dict.fromkeys(module_name for module_name in names if rule.search(module_name)))
        if not found[name]:
            raise ValueError(
                f"LoRA targets {preset!r} match none of the modules of {name} ({type(encoder).__name__}) "
                "(lora.text_encoder)"
            )
    return found


def checkpoint_gradients(encoder: torch.nn.Module) -> None:
    """Let the encoder's layers compute their activations again in the backward pass instead of keeping them.

    transformers does so in training mode only, which would also turn dropout on. Its flags, private and touched nowhere
    else, are therefore set on the layers that it recomputes, and on nothing inside them.
    """
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in encoder.modules():
        if isinstance(module, GradientCheckpointingLayer):
            layer: Any = module  # Any: transformers has no types
            layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = layer.training = True


def refuse_adapted(encoders: Mapping[str, torch.nn.Module], *, name: str) -> None:
    """Raise ValueError for text encoders that an adapter sits on: they are needed at every step."""
    adapted = [part for part, encoder in encoders.items() if getattr(encoder, "peft_config", None)]
    if adapted:
        raise ValueError(f"base {name}: {adapted[0]} has an adapter, so it cannot be released from memory")
