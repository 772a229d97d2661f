"""Trains the small CLIP of tinytown, for zero-shot reading and image-text scores.

Letters of tensor shapes: B batch, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig

from evenhand.tinytown.classifiers import augment
from evenhand.tinytown.engine import EngineSettings, fit
from evenhand.tinytown.renders import Renders
from evenhand.tinytown.text import text_config, token_ids_BL

PROJECTION = 128
# A batch shows few concepts, so that a caption is told apart by who is pictured, not by the concept alone.
CONCEPTS_PER_BATCH = 8


def new_clip(tokenizer: CLIPTokenizer, *, seed: int) -> CLIPModel:
    """An untrained CLIP: a vision transformer with patches of 8 px, and a text model like the base's."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        image_size=64,
        patch_size=8,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=PROJECTION,
    )
    text = text_config(tokenizer, width=96, layers=2, projection=PROJECTION)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION))


def train_clip(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    renders: Renders,
    reconstructed: npt.NDArray[np.uint8],
    settings: EngineSettings,
    folder: Path,
) -> None:
    """Contrastive loss (arXiv 2103.00020) with hard negatives: a batch holds several pictures of each of its concepts.

    Pictures of one caption are positives of each other, not negatives.
    """
    captions = [row.text for row in renders.rows]
    concepts = np.array([row.concept for row in renders.rows])
    pools = {concept: torch.from_numpy(np.flatnonzero(concepts == concept)) for concept in np.unique(concepts)}
    ids_NL = torch.cat([token_ids_BL(tokenizer, captions[i : i + 4096]) for i in range(0, len(captions), 4096)])

    def loss(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        chosen = [pools[concept] for concept in concepts[indices[:CONCEPTS_PER_BATCH].numpy()]]
        draws = torch.rand(len(indices), generator=generator)
        mates = [chosen[number % len(chosen)] for number in range(len(indices))]
        indices = torch.stack([pool[int(draw * len(pool))] for pool, draw in zip(mates, draws, strict=True)])
        pixels = renders.pixels_BHWC[indices.numpy()]
        decoded = (indices < len(reconstructed)).numpy() & (torch.rand(len(indices), generator=generator) < 0.5).numpy()
        pixels[decoded] = reconstructed[indices.numpy()[decoded]]
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        ids = ids_NL[indices]
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=augment(x, generator))
        same = (ids[:, None] == ids[None]).all(dim=2).float()
        wanted = same / same.sum(dim=1, keepdim=True)
        per_image = F.cross_entropy(output.logits_per_image, wanted)
        per_text = F.cross_entropy(output.logits_per_text, wanted)
        return (per_image + per_text) / 2, {"scale": model.logit_scale.detach().exp()}

    fit(model, loss, len(captions), settings, folder)


def zero_shot(
    model: CLIPModel, tokenizer: CLIPTokenizer, pixels_BHWC: npt.NDArray[np.uint8], captions: Sequence[str]
) -> npt.NDArray[np.int64]:
    """For each picture, the index of the caption that fits best."""
    ids = token_ids_BL(tokenizer, captions)
    picks = []
    with torch.no_grad():
        for part in np.array_split(pixels_BHWC, max(1, len(pixels_BHWC) // 128)):
            x = torch.from_numpy(np.array(part)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=x)
            picks.append(output.logits_per_image.argmax(dim=1).numpy())
    return np.concatenate(picks)
