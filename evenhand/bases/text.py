"""Captions that an encoder would cut off are an error: what is cut off is not learned, and nobody sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_lengths(
    tokenizer: Any,  # Any: a tokenizer of any class
    captions: Sequence[str],
) -> None:
    """Raise ValueError for a caption with more tokens, start and end included, than the tokenizer's encoder reads."""
    limit = tokenizer.model_max_length
    token_lists = tokenizer(list(captions), truncation=False, verbose=False).input_ids
    for caption, tokens in zip(captions, token_lists, strict=True):
        if len(tokens) > limit:
            raise ValueError(
                f"caption has {len(tokens)} tokens, but the text encoder reads {limit}: {caption!r} (shorten it)"
            )
