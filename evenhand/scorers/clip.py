"""Scores how well an image fits a text, and gives image features, with a CLIP or SigLIP in transformers format.

An image-text score is the cosine of two features, as in CLIPScore (Hessel et al. 2021, arXiv 2104.08718) without its
factor of 2.5 and its cut at zero, which change no comparison. Such scorers have opinions about who belongs into a
picture (arXiv 2604.13305): a score is never used without splitting off what the mix of people alone does to it.

Letters of shapes: N images, P texts, L tokens, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenhand.paths import model_path

if TYPE_CHECKING:
    import torch
    from PIL import Image

Features = NDArray[np.float32]

# model_type in config.json of the models whose two towers end in one space
MODEL_TYPES = ("clip", "siglip", "siglip2")


class ClipScorer:
    """A CLIP or SigLIP by folder or hub id.

    ``license`` is that of the weights, as their publisher declares it. ``revision`` is a commit of the hub; a folder
    has none.
    """

    def __init__(self, *, name: str, model: str, revision: str | None, license: str) -> None:
        self.name = name
        self.model = model
        self.revision = revision
        self.license = license
        if not license.strip():
            raise ValueError(f"scorer {name}: license must name the licence of {model}'s weights, got {license!r}")

    def load(self, *, device: torch.device) -> LoadedClipScorer:
        """The scorer on a device, in float32; ValueError when the model is not there, or is no CLIP or SigLIP."""
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        where = model_path(self.model)
        try:
            config = AutoConfig.from_pretrained(where, revision=self.revision, trust_remote_code=False)
            if config.model_type not in MODEL_TYPES:
                raise ValueError(
                    f"scorer {self.name}: {self.model} is a {config.model_type}, which has no features shared by "
                    f"images and texts; choose a model of type {', '.join(MODEL_TYPES)} (conf/scorer: model)"
                )
            network = AutoModel.from_pretrained(
                where, revision=self.revision, use_safetensors=True, trust_remote_code=False
            )
            # Pillow resizes: torchvision is not a dependency, and its resizing gives other pixels.
            processor = AutoImageProcessor.from_pretrained(
                where, revision=self.revision, backend="pil", trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(where, revision=self.revision, trust_remote_code=False)
        except (OSError, ImportError) as error:
            raise ValueError(f"scorer {self.name}: cannot load {self.model}: {error}") from error
        network = network.float().eval().requires_grad_(False).to(device)
        max_tokens = int(config.text_config.max_position_embeddings)
        return LoadedClipScorer(network, processor, tokenizer, max_tokens=max_tokens, device=device)


def no_scorer() -> None:
    """Nothing: the choice of an evaluation without image scores."""


class LoadedClipScorer:
    """See ``evenhand.interfaces.LoadedScorer``."""

    def __init__(
        self,
        network: Any,  # Any: transformers has no types
        processor: Any,  # Any: transformers has no types
        tokenizer: Any,  # Any: transformers has no types
        *,
        max_tokens: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._processor = processor
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._device = device
        self.fingerprint = _fingerprint(network)

    def image_features(self, images: Sequence[Image.Image]) -> Features:
        """Features of length 1, shape (N, D), in one batch."""
        import torch

        inputs = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")
        with torch.inference_mode():
            output = self._network.get_image_features(**inputs.to(self._device))
        return _unit(output.pooler_output)

    def text_features(self, texts: Sequence[str]) -> Features:
        """Features of length 1, shape (P, D), in one batch. A longer text is cut, as the model needs it."""
        import torch

        # Padded and without mask, as SigLIP was trained; CLIP's text tower is causal and never sees the padding.
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._network.get_text_features(input_ids=tokens["input_ids"].to(self._device))
        return _unit(output.pooler_output)

    def num_cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the model reads."""
        lengths = [len(ids) for ids in self._tokenizer(list(texts))["input_ids"]]
        return sum(length > self._max_tokens for length in lengths)


def _unit(features_ND: torch.Tensor) -> Features:
    wide = features_ND.double().cpu().numpy()
    result: Features = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return result


def _fingerprint(network: Any) -> str:  # Any: transformers has no types
    """sha256 in hex of the weights' names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
