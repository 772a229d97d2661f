"""Reads one attribute with any plain transformers image classifier: a folder or a hub id with one head.

The model's labels are mapped to the attribute's values. A label that is mapped to no value says that the picture shows
none of them. A classifier of people has no such label and would read a person from noise, so give it a finder:
``subjects`` crops the faces, and a picture without a face is then unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evenhand.readers.deciding import check_min_lead, decide, unread
from evenhand.readers.differentiable import AttributeLogits, Pixels
from evenhand.readers.pretrained import load_image_processor, load_network
from evenhand.readers.subjects import Finder, LoadedFinder, read_subjects
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(kw_only=True, eq=False)
class ImageClassification:
    """See the file's head.

    ``values`` maps each value of ``attribute`` to the model's labels that mean it. ``min_lead`` is by how much the best
    value's probability must lead the second's, among the values.
    """

    name: str
    model: str
    revision: str | None
    license: str
    validated_on: str
    subjects: Finder | None
    attribute: str
    values: Mapping[str, Sequence[str]]
    min_lead: float
    attributes: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = {self.attribute: tuple(self.values)}
        check_min_lead(self.name, self.min_lead)
        labels = [label for entry in self.values.values() for label in entry]
        if len(self.values) < 2 or not all(self.values.values()) or len(set(labels)) != len(labels):
            raise ValueError(
                f"reader {self.name}: values must map two values or more to labels of the model, each label once, "
                f"got {dict(self.values)}"
            )

    @property
    def differentiable(self) -> bool:
        """Whether it may sit in a training loop: with a finder, what it reads is cut out of the picture."""
        return self.subjects is None

    def load(self, *, device: torch.device) -> LoadedImageClassification:
        """The reader on a device; ValueError when it is not there or the model lacks a label."""
        from transformers import AutoModelForImageClassification

        network = load_network(
            AutoModelForImageClassification, self.model, revision=self.revision, reader=self.name, device=device
        )
        numbers = {str(label): int(number) for number, label in network.config.id2label.items()}
        missing = [label for labels in self.values.values() for label in labels if label not in numbers]
        if missing:
            raise ValueError(
                f"reader {self.name}: {self.model} has no label {missing[0]!r} (conf/reader: values); "
                f"its labels are {', '.join(sorted(numbers))}"
            )
        processor = load_image_processor(self.model, revision=self.revision, reader=self.name)
        finder = None if self.subjects is None else self.subjects.load(device=device)
        classes = [[numbers[label] for label in labels] for labels in self.values.values()]
        return LoadedImageClassification(self, network, processor, finder, classes, device)


class LoadedImageClassification:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(
        self,
        settings: ImageClassification,
        network: Any,  # Any: transformers has no types
        processor: Any,  # Any: transformers has no types
        finder: LoadedFinder | None,
        classes: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._network = network
        self._processor = processor
        self._finder = finder
        self._classes = classes
        self._device = device

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, the attribute for every subject."""
        return read_subjects(images, self._finder, self._settings.attributes, self._read)

    def logits(self, pixels_BCHW: torch.Tensor) -> dict[str, AttributeLogits]:
        """The attribute of each picture as one subject, with gradients; none is shown where another label fits best."""
        import torch

        if self._finder is not None:
            raise ValueError(f"reader {self._settings.name}: what its finder cuts out has no gradient (subjects: null)")
        logits_BL = self._network(pixel_values=self._pixels.of(pixels_BCHW)).logits.float()
        values_BK = torch.stack([logits_BL[:, numbers].logsumexp(dim=1) for numbers in self._classes], dim=1)
        mapped = {number for numbers in self._classes for number in numbers}
        others = [number for number in range(logits_BL.shape[1]) if number not in mapped]
        shown_B = torch.ones(len(logits_BL), dtype=torch.bool, device=logits_BL.device)
        if others:
            shown_B = logits_BL[:, others].amax(dim=1) <= values_BK.amax(dim=1)
        return {
            self._settings.attribute: AttributeLogits(logits_BSK=values_BK[:, None], shown_BS=shown_B.detach()[:, None])
        }

    @cached_property
    def _pixels(self) -> Pixels:
        """What the processor does, for tensors."""
        return Pixels(self._processor, reader=self._settings.name)

    def _read(self, pictures: list[Image.Image]) -> list[list[SubjectReading]]:
        import torch

        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            probs_BK = self._network(pixel_values=pixels.to(self._device)).logits.double().softmax(dim=1).cpu()
        return [[self._decide(probs_K.tolist())] for probs_K in probs_BK]

    def _decide(self, probs: Sequence[float]) -> SubjectReading:
        settings = self._settings
        of_value = [sum(probs[number] for number in numbers) for numbers in self._classes]
        total = sum(of_value)
        given = [prob / total for prob in of_value]
        mapped = {number for numbers in self._classes for number in numbers}
        others = [number for number in range(len(probs)) if number not in mapped]
        other = max(others, key=lambda number: probs[number], default=None)
        if other is not None and probs[other] > max(of_value):
            label = self._network.config.id2label[other]
            reason = f"none of the values ({label} {probs[other]:.2f})"
            return unread(settings.attribute, reason, probs=given)
        return decide(settings.attribute, settings.attributes[settings.attribute], given, min_lead=settings.min_lead)
