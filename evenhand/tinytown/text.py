"""The tokenizer and text encoder of tinytown: a byte-level BPE in CLIP's format, and a small CLIP text model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 24
VOCABULARY_SIZE = 1024
START, END = "<|startoftext|>", "<|endoftext|>"
# The split of OpenAI's CLIP tokenizer.
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are learnt from the captions; reads any text, since it is byte-level."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 2 - len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # CLIP's order: bytes, bytes that end a word, merges, then the two marks.
    merged = ["".join(pair) for pair in model["merges"]]
    tokens = list(dict.fromkeys([*alphabet, *(f"{byte}</w>" for byte in alphabet), *merged, START, END]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS, pad_token=END)


def text_config(tokenizer: CLIPTokenizer, *, width: int, layers: int, projection: int) -> CLIPTextConfig:
    """A CLIP text configuration for the tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_text_encoder(tokenizer: CLIPTokenizer, *, seed: int) -> CLIPTextModel:
    """An untrained text encoder: two layers of 128."""
    torch.manual_seed(seed)
    return CLIPTextModel(text_config(tokenizer, width=128, layers=2, projection=128))


def token_ids_BL(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids padded to the encoder's length; ValueError for a caption that does not fit."""
    ids = tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS)["input_ids"]
    for caption, row in zip(captions, ids, strict=True):
        if len(row) > MAX_TOKENS:
            raise ValueError(f"caption has {len(row)} tokens, the text encoder reads {MAX_TOKENS}: {caption!r}")
    return torch.tensor(ids)
