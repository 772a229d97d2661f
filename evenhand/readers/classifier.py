"""Reads images with a transformers image classifier of several heads: a folder or any hub id.

The model has one flat vector of logits in named heads: its ``id2label`` entries are ``head=value``, and each head has a
softmax of its own. A head is read for a subject as ``<place><attribute>``: for one person the place is empty, for three
people in a picture it is ``0.``, ``1.`` and ``2.``. What the ``kind`` head says decides which heads apply, so that
nobody's presentation is read from a car. A plain model with one head: ``evenhand.readers.image_classification``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from evenhand.readers.deciding import check_min_lead, decide, unread
from evenhand.readers.differentiable import AttributeLogits, Pixels
from evenhand.readers.pretrained import load_image_processor, load_network
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a kind of picture shows: one subject for each place, with these attributes."""

    places: tuple[str, ...]
    attributes: tuple[str, ...]


@dataclass(kw_only=True, eq=False)
class Classifier:
    """See the file's head.

    ``presence`` maps an attribute to its value for an empty place: where that is read, nothing else is.
    ``gate`` is the attribute whose value picks an entry of ``shows``; a kind without entry shows no subject, and
    ``missing`` says so in words. ``min_lead`` is by how much the best value's probability must lead the second's, else
    the reading is unread. Where the gate's logits have less than ``min_energy`` (``log sum exp``, in which a picture
    unlike all that the model has learnt comes out low however sure its softmax is; Liu et al. 2020, arXiv 2010.03759,
    equation 4 with its sign turned), no kind is read; None for no bound.
    """

    name: str
    model: str
    revision: str | None
    license: str
    validated_on: str
    attributes: Mapping[str, tuple[str, ...]]
    gate: str
    shows: Mapping[str, Mapping[str, Sequence[str]]]
    missing: Mapping[str, str]
    presence: Mapping[str, str]
    min_energy: float | None
    min_lead: float
    kinds: Mapping[str, Shown] = field(init=False)
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.attributes = {name: tuple(values) for name, values in self.attributes.items()}
        check_min_lead(self.name, self.min_lead)
        if self.gate not in self.attributes:
            known = ", ".join(self.attributes)
            raise ValueError(f"reader {self.name}: gate {self.gate!r} is no attribute; there are {known}")
        for attribute, empty in self.presence.items():
            if empty not in self.attributes.get(attribute, ()):
                raise ValueError(f"reader {self.name}: presence.{attribute} must be one of its values, got {empty!r}")
        self.kinds = {kind: self._shown(kind, entry) for kind, entry in self.shows.items()}
        if set(self.missing) != set(self.attributes) - {self.gate}:
            raise ValueError(
                f"reader {self.name}: missing must have a reason for each attribute but {self.gate}, "
                f"got {sorted(self.missing)}"
            )

    def _shown(self, kind: str, entry: Mapping[str, Sequence[str]]) -> Shown:
        shown = Shown(places=tuple(entry["places"]), attributes=tuple(entry["attributes"]))
        unknown = set(shown.attributes) - set(self.attributes)
        if kind not in self.attributes[self.gate] or unknown or not shown.places:
            raise ValueError(
                f"reader {self.name}: shows.{kind} must be a value of {self.gate}, with one place or more and declared "
                f"attributes; unknown attributes: {sorted(unknown)}"
            )
        return shown

    def load(self, *, device: torch.device) -> LoadedClassifier:
        """The reader on a device; ValueError when it is not there or its labels are not those declared."""
        from transformers import AutoModelForImageClassification

        network = load_network(
            AutoModelForImageClassification, self.model, revision=self.revision, reader=self.name, device=device
        )
        processor = load_image_processor(self.model, revision=self.revision, reader=self.name)
        heads = self._heads(network.config.id2label)
        return LoadedClassifier(self, network, processor, heads, device)

    def _heads(self, id2label: Mapping[int, str]) -> dict[str, list[int]]:
        """Logit numbers of each needed head, in the order of the declared values."""
        numbers: dict[str, dict[str, int]] = {}
        for number, label in id2label.items():
            head, _, value = label.partition("=")
            numbers.setdefault(head, {})[value] = int(number)
        needed = {self.gate: self.gate}
        for shown in self.kinds.values():
            needed |= {place + name: name for place in shown.places for name in shown.attributes}
        heads = {}
        for head, attribute in needed.items():
            declared = self.attributes[attribute]
            if set(numbers.get(head, {})) != set(declared):
                raise ValueError(
                    f"reader {self.name}: head {head!r} of {self.model} has values {sorted(numbers.get(head, {}))}, "
                    f"but the reader declares {list(declared)} (conf/reader: attributes.{attribute})"
                )
            heads[head] = [numbers[head][value] for value in declared]
        return heads


class LoadedClassifier:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(
        self,
        settings: Classifier,
        network: Any,  # Any: transformers has no types
        processor: Any,  # Any: transformers has no types
        heads: Mapping[str, Sequence[int]],
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._network = network
        self._processor = processor
        self._heads = heads
        self._device = device

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, every declared attribute for every subject that its kind shows."""
        if not images:
            return []
        logits_BK = self._logits(images)
        energies = logits_BK[:, self._heads[self._settings.gate]].logsumexp(dim=1).tolist()
        probs = self._probs(logits_BK)
        return [self._subjects(each, energy) for each, energy in zip(probs, energies, strict=True)]

    def logits(self, pixels_BCHW: torch.Tensor) -> dict[str, AttributeLogits]:
        """Each attribute that some kind of picture shows, with gradients for the pixels.

        Which heads apply is decided as in `read`, and has no gradient; a value need not lead by any probability.
        """
        logits_BK = self._network(pixel_values=self._pixels.of(pixels_BCHW)).logits.float()
        seen_BK = logits_BK.detach().double().cpu()
        energies = seen_BK[:, self._heads[self._settings.gate]].logsumexp(dim=1).tolist()
        places = [self._occupied(probs, energy) for probs, energy in zip(self._probs(seen_BK), energies, strict=True)]
        kinds = self._settings.kinds.values()
        names = [name for name in self._settings.attributes if any(name in shown.attributes for shown in kinds)]
        return {name: self._of_attribute(name, logits_BK, places) for name in names}

    @cached_property
    def _pixels(self) -> Pixels:
        """What the processor does, for tensors."""
        return Pixels(self._processor, reader=self._settings.name)

    def _occupied(self, probs: Mapping[str, tuple[float, ...]], energy: float) -> list[tuple[str, Shown] | None]:
        """What is shown in each place of a picture, None where there is nobody."""
        _, shown = self._kind(probs, energy)
        if shown is None:
            return []
        return [
            None if self._emptiness(subject, place, shown, probs) is not None else (place, shown)
            for subject, place in enumerate(shown.places)
        ]

    def _of_attribute(
        self, name: str, logits_BK: torch.Tensor, places: Sequence[Sequence[tuple[str, Shown] | None]]
    ) -> AttributeLogits:
        import torch

        most = max(len(shown.places) for shown in self._settings.kinds.values())
        anything = list(range(len(self._settings.attributes[name])))
        numbers, has_it = [], []
        for row in places:
            heads = [None if entry is None or name not in entry[1].attributes else entry[0] + name for entry in row]
            heads += [None] * (most - len(heads))
            numbers.append([anything if head is None else self._heads[head] for head in heads])
            has_it.append([head is not None for head in heads])
        numbers_BSV = torch.tensor(numbers, device=logits_BK.device)
        images_B11 = torch.arange(len(logits_BK), device=logits_BK.device).view(-1, 1, 1)
        return AttributeLogits(
            logits_BSK=logits_BK[images_B11, numbers_BSV],
            shown_BS=torch.tensor(has_it, device=logits_BK.device),
        )

    def head_probs(self, images: Sequence[Image.Image]) -> list[dict[str, tuple[float, ...]]]:
        """Probabilities of every head's values for each image, whether or not the head applies to it."""
        return self._probs(self._logits(images))

    def _logits(self, images: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        pixels = self._processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            logits_BK: torch.Tensor = self._network(pixel_values=pixels.to(self._device)).logits.double().cpu()
        return logits_BK

    def _probs(self, logits_BK: torch.Tensor) -> list[dict[str, tuple[float, ...]]]:
        probs = {head: logits_BK[:, numbers].softmax(dim=1).tolist() for head, numbers in self._heads.items()}
        return [{head: tuple(rows[index]) for head, rows in probs.items()} for index in range(len(logits_BK))]

    def _subjects(self, probs: Mapping[str, tuple[float, ...]], energy: float) -> list[SubjectReading]:
        gate = self._settings.gate
        kind, shown = self._kind(probs, energy)
        if shown is None:
            shown = Shown(places=("",), attributes=())
        readings = []
        for subject, place in enumerate(shown.places):
            empty = self._emptiness(subject, place, shown, probs)
            for name in self._settings.attributes:
                if name != gate and empty is not None:
                    readings.append(unread(name, empty, subject=subject))
                elif name == gate:
                    readings.append(replace(kind, subject=subject))
                elif name in shown.attributes:
                    readings.append(self._read_head(subject, name, probs[place + name]))
                else:
                    reason = f"{self._settings.missing[name]} ({gate}: {kind.value or kind.unread})"
                    readings.append(unread(name, reason, subject=subject))
        return readings

    def _kind(self, probs: Mapping[str, tuple[float, ...]], energy: float) -> tuple[SubjectReading, Shown | None]:
        """What kind of picture it is, and what that kind shows, if anything."""
        gate, least = self._settings.gate, self._settings.min_energy
        kind = self._read_head(0, gate, probs[gate])
        if least is not None and energy < least:
            kind = unread(gate, f"unlike what the reader has learnt (energy {energy:.1f})", probs=probs[gate])
        return kind, self._settings.kinds.get(kind.value or "")

    def _emptiness(self, subject: int, place: str, shown: Shown, probs: Mapping[str, tuple[float, ...]]) -> str | None:
        """Why there is no subject in a place, or None where there is one."""
        for attribute, empty in self._settings.presence.items():
            if attribute in shown.attributes:
                reading = self._read_head(subject, attribute, probs[place + attribute])
                if reading.value in (None, empty):
                    return f"{self._settings.missing[attribute]} ({attribute}: {reading.value or reading.unread})"
        return None

    def _read_head(self, subject: int, attribute: str, probs: tuple[float, ...]) -> SubjectReading:
        values = self._settings.attributes[attribute]
        return decide(attribute, values, probs, subject=subject, min_lead=self._settings.min_lead)
