"""Readers that may sit in a training loop: what they give, and their networks' pixels made of a tensor with gradients.

`Pixels` repeats what the processor's own settings say of an 8-bit picture: resize, cut the centre out, normalise.
Resizing is done by PyTorch's antialiased interpolation, which follows PIL's filters but rounds differently; rounding to
8 bits, which has no gradient, is left out. Letters: B batch, S places of a subject, K values, C channels, H height,
W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from evenhand.interfaces import LoadedReader

if TYPE_CHECKING:
    import torch

# PIL's numbers of its filters, and what PyTorch calls them
FILTERS = {2: "bilinear", 3: "bicubic"}
PROBE_PX = (480, 400)
ROUNDING = 3 / 255  # PIL rounds to 8 bits after each of its two passes
KNOWN = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeLogits:
    """What a reader makes of one attribute in a batch of pictures, with gradients for their pixels.

    ``logits_BSK`` are of the K declared values for each of S places of a subject, ``shown_BS`` says in which of them
    the reader finds a subject that has the attribute.
    """

    logits_BSK: torch.Tensor
    shown_BS: torch.Tensor


class LoadedDifferentiableReader(LoadedReader, Protocol):
    """A reader on a device that can also be asked for gradients."""

    def logits(self, pixels_BCHW: torch.Tensor) -> Mapping[str, AttributeLogits]:
        """Attributes of subjects, by name, read of pixels in [-1, 1] as `read` would of the same pictures.

        What is read of a picture as a whole, such as its kind, may be left out. ValueError where the reader's own
        processing of pictures has no form with gradients.
        """


class DifferentiableReader(Protocol):
    """A reader that may sit in a training loop; ``differentiable`` is False for settings with which it may not.

    The rest is as in `Reader`.
    """

    name: str
    attributes: Mapping[str, tuple[str, ...]]

    @property
    def differentiable(self) -> bool:
        """Whether what ``load`` gives has ``logits``."""

    def load(self, *, device: torch.device) -> LoadedDifferentiableReader:
        """Load the reader; ValueError when its folder or hub id is not there."""


class Pixels:
    """What a processor does, for tensors; ValueError for one that does something else.

    Processors say by keys what they do, but not all of it: one made picture is therefore given to both.
    """

    def __init__(self, processor: Any, *, reader: str) -> None:  # Any: transformers has no types
        settings = processor.to_dict()
        unknown = sorted(key for key, value in settings.items() if key.startswith("do_") and value and key not in KNOWN)
        if unknown or not settings.get("do_rescale", True):
            what = unknown[0] if unknown else "do_rescale=false"
            raise ValueError(
                f"reader {reader}: its image processor has {what}, of which there is no form with gradients; take "
                "another reader for the training loop"
            )
        self._resize = settings["size"] if settings.get("do_resize") else None
        self._crop = settings["crop_size"] if settings.get("do_center_crop") else None
        number = int(settings["resample"]) if settings.get("resample") is not None else 2
        if self._resize is not None and number not in FILTERS:
            raise ValueError(
                f"reader {reader}: resizes with PIL's filter {number}; with gradients there are "
                f"{', '.join(f'{known} ({name})' for known, name in FILTERS.items())}"
            )
        self._filter = FILTERS.get(number, "")
        self._scale = float(settings.get("rescale_factor", 1 / 255)) * 255
        normalizes = bool(settings.get("do_normalize"))
        self._mean_3 = tuple(settings["image_mean"]) if normalizes else (0.0,) * 3
        self._std_3 = tuple(settings["image_std"]) if normalizes else (1.0,) * 3
        self._compare(processor, reader=reader)

    def _compare(self, processor: Any, *, reader: str) -> None:  # Any: transformers has no types
        import numpy as np
        import torch
        from PIL import Image

        waves = [np.cos(np.arange(side) / period)[:, None] for side, period in zip(PROBE_PX, (29, 23), strict=True)]
        waves_HW = np.rint(127.5 + 127.5 * waves[0] * waves[1].T).astype(np.uint8)
        image = Image.fromarray(np.stack([waves_HW, waves_HW[::-1], 255 - waves_HW], axis=2))
        wanted_BCHW = processor(images=[image], return_tensors="pt")["pixel_values"]
        found_BCHW = self.of(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1)
        most = ROUNDING * self._scale / min(self._std_3)
        if wanted_BCHW.shape != found_BCHW.shape or (wanted_BCHW - found_BCHW).abs().max().item() > most:
            raise ValueError(
                f"reader {reader}: its image processor {type(processor).__name__} gives other pixels than resizing, "
                "cutting and normalising do; take another reader for the training loop"
            )

    def of(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """What the network is given for pixels in [-1, 1]; values beyond are cut off, as in a picture."""
        unit_BCHW = ((pixels_BCHW + 1) / 2).clamp(0, 1)
        unit_BCHW = self._cut(self._resized(unit_BCHW))
        mean_3, std_3 = (unit_BCHW.new_tensor(values).view(1, 3, 1, 1) for values in (self._mean_3, self._std_3))
        return (unit_BCHW * self._scale - mean_3) / std_3

    def _resized(self, unit_BCHW: torch.Tensor) -> torch.Tensor:
        import torch

        if self._resize is None:
            return unit_BCHW
        height, width = unit_BCHW.shape[2:]
        if "shortest_edge" in self._resize:
            edge, shorter = int(self._resize["shortest_edge"]), min(height, width)
            wanted = (int(edge * height / shorter), int(edge * width / shorter))
        else:
            wanted = (int(self._resize["height"]), int(self._resize["width"]))
        if wanted == (height, width):
            return unit_BCHW
        resized_BCHW: torch.Tensor = torch.nn.functional.interpolate(
            unit_BCHW, size=wanted, mode=self._filter, align_corners=False, antialias=True
        )
        return resized_BCHW.clamp(0, 1)

    def _cut(self, unit_BCHW: torch.Tensor) -> torch.Tensor:
        if self._crop is None:
            return unit_BCHW
        sides = int(self._crop["height"]), int(self._crop["width"])
        top, left = ((side - wanted) // 2 for side, wanted in zip(unit_BCHW.shape[2:], sides, strict=True))
        if top < 0 or left < 0:
            raise ValueError(f"an image of {tuple(unit_BCHW.shape[2:])} px is smaller than the reader's crop {sides}")
        return unit_BCHW[:, :, top : top + sides[0], left : left + sides[1]]
