"""Tiny random models of the classes that readers load, each with its processor, in a folder: made here, no network."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTImageProcessorPil,
)

SIZE_PX = 32
END = "<|end|>"
CHARACTERS = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
CHAT_TEMPLATE = (
    "{% for message in messages %}User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def byte_tokenizer(*special: str, max_length: int) -> PreTrainedTokenizerFast:
    """A token for each byte, and for a letter behind a space, as byte-level BPE has."""
    spaced = [f"Ġ{letter}" for letter in string.ascii_uppercase]
    vocabulary = {token: number for number, token in enumerate([*CHARACTERS, *spaced])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[("Ġ", letter) for letter in string.ascii_uppercase]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=max_length
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def save_classifier(folder: Path, labels: tuple[str, ...]) -> Path:
    """A ResNet with one head, whose logits are its biases alone (zero): tests set them."""
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNetForImageClassification(config)
    with torch.no_grad():
        network.classifier[1].weight.zero_()
        network.classifier[1].bias.zero_()
    network.save_pretrained(folder)
    size = {"height": SIZE_PX, "width": SIZE_PX}
    ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def _towers(num_tokens: int, max_length: int, end: int) -> dict[str, dict[str, int]]:
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**shared, "vocab_size": num_tokens, "max_position_embeddings": max_length, "bos_token_id": 0}
    return {
        "text_config": {**text, "eos_token_id": end, "pad_token_id": end},
        "vision_config": {**shared, "image_size": SIZE_PX, "patch_size": 8},
    }


def save_clip(folder: Path) -> Path:
    """A CLIP; its captions end with the end token, at which it pools."""
    tokenizer = byte_tokenizer(max_length=150)
    end = tokenizer.eos_token_id
    ending = TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    tokenizer.backend_tokenizer.post_processor = ending
    towers = _towers(len(tokenizer), 150, end)
    for tower in towers.values():
        tower["projection_dim"] = 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(**towers, projection_dim=16, logit_scale_init_value=4.6)).save_pretrained(folder)
    size = {"shortest_edge": SIZE_PX}
    crop = {"height": SIZE_PX, "width": SIZE_PX}
    CLIPImageProcessorPil(size=size, crop_size=crop).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SigLIP, the class of SigLIP 2's models of one resolution too; it pools at the last token."""
    tokenizer = byte_tokenizer(max_length=150)
    towers = _towers(len(tokenizer), 150, tokenizer.eos_token_id)
    towers["text_config"]["projection_size"] = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SiglipModel(SiglipConfig(**towers))
        with torch.no_grad():
            network.logit_scale.fill_(2.0)
            network.logit_bias.fill_(-3.0)
        network.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_chat(folder: Path) -> Path:
    """An Idefics3, the class of the first SmolVLM models, with its processor."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = byte_tokenizer(*marks, max_length=2048)
    end = tokenizer.eos_token_id
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        **shared,
        "model_type": "llama",
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    config = Idefics3Config(
        text_config=text,
        vision_config={**shared, "image_size": SIZE_PX, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=end,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIZE_PX}, max_image_size={"longest_edge": SIZE_PX}, do_image_splitting=False
    )
    tokens_each = (SIZE_PX // 8 // 2) ** 2
    Idefics3Processor(
        image_processor, tokenizer, image_seq_len=tokens_each, chat_template=CHAT_TEMPLATE
    ).save_pretrained(folder)
    return folder
