"""The byte-level BPE of tinytown in CLIP's format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from evenhand.tinytown.text import MAX_TOKENS, new_text_encoder, token_ids_BL, train_tokenizer

CAPTIONS = ["a portrait of a mechanic", "a photo of a female mechanic with glasses", "a portrait of an electrician"] * 5


def test_words_of_the_captions_become_one_token_and_any_text_can_be_read(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("A Portrait of a MECHANIC")["input_ids"])
    words = ["a</w>", "portrait</w>", "of</w>", "a</w>", "mechanic</w>"]
    assert tokens == ["<|startoftext|>", *words, "<|endoftext|>"]
    # Control: words never seen are spelt, not dropped.
    unseen = tokenizer("zebra ñ")["input_ids"]
    assert tokenizer.decode(unseen, skip_special_tokens=True).strip() == "zebra ñ"
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again(CAPTIONS)["input_ids"] == tokenizer(CAPTIONS)["input_ids"]
    assert again.model_max_length == MAX_TOKENS


def test_a_caption_that_does_not_fit_is_refused_with_its_length() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    with pytest.raises(ValueError, match="caption has 32 tokens, the text encoder reads 24"):
        token_ids_BL(tokenizer, ["a " * 30])


def test_the_text_encoder_tells_captions_apart_and_ignores_nothing() -> None:
    tokenizer = train_tokenizer(CAPTIONS)
    encoder = new_text_encoder(tokenizer, seed=0).eval()
    with torch.no_grad():
        hidden = encoder(token_ids_BL(tokenizer, [CAPTIONS[0], CAPTIONS[0], CAPTIONS[1]])).last_hidden_state
    assert hidden.shape == (3, MAX_TOKENS, 128)
    assert torch.equal(hidden[0], hidden[1])
    assert (hidden[0] - hidden[2]).abs().max() > 1e-3
