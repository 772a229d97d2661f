"""Reads attributes by comparing a picture with phrases: CLIP or SigLIP through transformers, no training.

Each phrase is put into every template, and the mean of the normalised text features stands for it (Radford et al. 2021,
arXiv 2103.00020, section 3.1.4). A value may have several phrases: the one that fits best counts. Phrases under
``none_of_these`` say what else a picture may show: where one of them fits best, the attribute is unread, so that
nobody's presentation is read from a car. CLIP's scores are a softmax over the values and those phrases; SigLIP's are a
sigmoid of each (Zhai et al. 2023, arXiv 2303.15343, section 3.2). They are scores, not chances: neither is calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from evenhand.readers.deciding import check_min_lead, decide, unread
from evenhand.readers.differentiable import AttributeLogits, Pixels
from evenhand.readers.pretrained import load_image_processor, load_network, load_text_part
from evenhand.readers.subjects import Finder, LoadedFinder, read_subjects
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image

CAPTIONS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """What one attribute's values, and what is none of them, are called; ``templates`` take a phrase at ``{}``.

    With ``nouns``, the phrases of the values take each noun at ``{}``: "female {}" of a mechanic, of a nurse. So a
    nurse is compared with the other value's nurse. Values need equally many phrases: as the best one counts, a value
    with more of them would be read more often. ``missing`` is the reason given where none of the values fits.
    """

    templates: tuple[str, ...]
    nouns: tuple[str, ...]
    values: Mapping[str, Sequence[str]]
    none_of_these: tuple[str, ...]
    missing: str

    def __post_init__(self) -> None:
        counts = {value: len(phrases) for value, phrases in self.values.items()}
        if len(counts) < 2 or len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"values needs two or more, each with equally many phrases, got {counts} phrases")
        if not self.templates or any(template.count("{}") != 1 for template in self.templates):
            raise ValueError(f"templates needs one or more with one {{}} each, got {list(self.templates)}")
        wanted = 1 if self.nouns else 0
        wrong = [phrase for group in self.values.values() for phrase in group if phrase.count("{}") != wanted]
        if wrong:
            raise ValueError(f"a phrase of a value needs {wanted} {{}} with nouns {list(self.nouns)}, got {wrong[0]!r}")

    def value_phrases(self, value: str) -> list[str]:
        """The phrases of a value, with each noun."""
        return [phrase.replace("{}", noun) for phrase in self.values[value] for noun in self.nouns or ("",)]

    def captions(self) -> list[list[str]]:
        """The captions of each phrase, the values' first, in lower case, which SigLIP 2 was trained on."""
        phrases = [phrase for value in self.values for phrase in self.value_phrases(value)] + list(self.none_of_these)
        return [[template.format(phrase).lower() for template in self.templates] for phrase in phrases]


@dataclass(kw_only=True, eq=False)
class ZeroShot:
    """See the file's head; ``phrases`` are of each attribute that is read.

    ``min_score`` is the least score of the best value (of its softmax, or its sigmoid) and ``min_lead`` by how much it
    must lead the second, after the values' scores are made to sum to one; else the attribute is unread.
    """

    name: str
    model: str
    revision: str | None
    license: str
    validated_on: str
    subjects: Finder | None
    phrases: Mapping[str, Phrases]
    min_score: float
    min_lead: float
    attributes: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = {attribute: tuple(phrases.values) for attribute, phrases in self.phrases.items()}
        check_min_lead(self.name, self.min_lead)
        if not 0 <= self.min_score < 1:
            raise ValueError(f"reader {self.name}: min_score must be at least 0 and below 1, got {self.min_score}")
        if not self.phrases:
            raise ValueError(f"reader {self.name}: phrases must be of one attribute or more")

    @property
    def differentiable(self) -> bool:
        """Whether it may sit in a training loop: with a finder, what it reads is cut out of the picture."""
        return self.subjects is None

    def load(self, *, device: torch.device) -> LoadedZeroShot:
        """The reader on a device, with its phrases encoded; ValueError when it is not there or a caption too long."""
        from transformers import AutoModel, AutoTokenizer

        network = load_network(AutoModel, self.model, revision=self.revision, reader=self.name, device=device)
        if not hasattr(network, "logit_scale"):
            raise ValueError(
                f"reader {self.name}: {self.model} is a {type(network).__name__}, which compares no picture with text; "
                f"name a CLIP or a SigLIP model"
            )
        tokenizer = load_text_part(AutoTokenizer, self.model, revision=self.revision, reader=self.name)
        processor = load_image_processor(self.model, revision=self.revision, reader=self.name)
        finder = None if self.subjects is None else self.subjects.load(device=device)
        loaded = LoadedZeroShot(self, network, processor, finder, device)
        loaded.encode_phrases(tokenizer)
        return loaded


class _Scores(NamedTuple):
    values: list[float]
    others: list[float]


class LoadedZeroShot:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(
        self,
        settings: ZeroShot,
        network: Any,  # Any: transformers has no types
        processor: Any,  # Any: transformers has no types
        finder: LoadedFinder | None,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._network = network
        self._processor = processor
        self._finder = finder
        self._device = device
        self._sigmoid = hasattr(network, "logit_bias")
        self._text_PD: dict[str, torch.Tensor] = {}  # P phrases: the values', then what is none of them

    def encode_phrases(self, tokenizer: Any) -> None:  # Any: transformers has no types
        """Encode the captions of every attribute, once."""
        import torch

        for attribute, phrases in self._settings.phrases.items():
            captions = [caption for group in phrases.captions() for caption in group]
            chunks = [captions[start : start + CAPTIONS_AT_ONCE] for start in range(0, len(captions), CAPTIONS_AT_ONCE)]
            features = torch.cat([self._text_features(tokenizer, chunk) for chunk in chunks])
            means = features.reshape(-1, len(phrases.templates), features.shape[1]).mean(dim=1)
            self._text_PD[attribute] = torch.nn.functional.normalize(means, dim=1)

    def _text_features(self, tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:  # Any: transformers
        import torch

        most = int(self._network.config.text_config.max_position_embeddings)
        tokens = tokenizer(list(captions), padding="max_length", max_length=most)
        for caption, ids in zip(captions, tokens["input_ids"], strict=True):
            if len(ids) > most:
                raise ValueError(
                    f"reader {self._settings.name}: {self._settings.model} reads {most} tokens, but a caption has "
                    f"{len(ids)}: {caption!r}"
                )
        ids_BL = torch.tensor(tokens["input_ids"], device=self._device)
        # SigLIP was trained on padded captions without a mask; CLIP reads up to the end token.
        mask_BL = None if self._sigmoid else torch.tensor(tokens["attention_mask"], device=self._device)
        with torch.no_grad():
            features = self._network.get_text_features(input_ids=ids_BL, attention_mask=mask_BL)
        return torch.nn.functional.normalize(_pooled(features), dim=1)

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, every declared attribute for every subject."""
        return read_subjects(images, self._finder, self._settings.attributes, self._read)

    def _read(self, pictures: list[Image.Image]) -> list[list[SubjectReading]]:
        scores = self.scores(pictures)
        return [
            [self._decide(attribute, scores[attribute][index]) for attribute in self._settings.attributes]
            for index in range(len(pictures))
        ]

    def scores(self, pictures: Sequence[Image.Image]) -> dict[str, list[_Scores]]:
        """For each attribute and picture, the score of each value and of each phrase that is none of them."""
        import torch

        pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            features = self._network.get_image_features(pixel_values=pixels.to(self._device))
        image_BD = torch.nn.functional.normalize(_pooled(features), dim=1)
        scale = self._network.logit_scale.exp()
        result = {}
        for attribute, text_PD in self._text_PD.items():
            logits_BG = self._best_phrases(attribute, (image_BD @ text_PD.T * scale).double())
            if self._sigmoid:
                scores_BG = (logits_BG + self._network.logit_bias.double()).sigmoid()
            else:
                scores_BG = logits_BG.softmax(dim=1)
            num_values = len(self._settings.attributes[attribute])
            result[attribute] = [_Scores(row[:num_values], row[num_values:]) for row in scores_BG.cpu().tolist()]
        return result

    def logits(self, pixels_BCHW: torch.Tensor) -> dict[str, AttributeLogits]:
        """Each attribute of a picture as one subject, with gradients; none is shown where another phrase fits best.

        The softmax of the logits is what `read` gives as probabilities; `min_score` and `min_lead` are left out.
        """
        import torch

        if self._finder is not None:
            raise ValueError(f"reader {self._settings.name}: what its finder cuts out has no gradient (subjects: null)")
        pixels = self._pixels.of(pixels_BCHW)
        image_BD = torch.nn.functional.normalize(_pooled(self._network.get_image_features(pixel_values=pixels)), dim=1)
        found = {}
        for attribute, text_PD in self._text_PD.items():
            logits_BG = self._best_phrases(attribute, image_BD @ text_PD.T * self._network.logit_scale.exp())
            if self._sigmoid:
                logits_BG = torch.nn.functional.logsigmoid(logits_BG + self._network.logit_bias)
            num_values = len(self._settings.attributes[attribute])
            values_BK, others_BG = logits_BG[:, :num_values], logits_BG[:, num_values:]
            shown_B = torch.ones(len(values_BK), dtype=torch.bool, device=values_BK.device)
            if others_BG.shape[1]:
                shown_B = (others_BG.amax(dim=1) <= values_BK.amax(dim=1)).detach()
            found[attribute] = AttributeLogits(logits_BSK=values_BK[:, None], shown_BS=shown_B[:, None])
        return found

    @cached_property
    def _pixels(self) -> Pixels:
        """What the processor does, for tensors."""
        return Pixels(self._processor, reader=self._settings.name)

    def _best_phrases(self, attribute: str, logits_BP: torch.Tensor) -> torch.Tensor:
        """Logits of the values (the best phrase of each), then of what is none of them."""
        import torch

        phrases = self._settings.phrases[attribute]
        num_values, num_others = len(phrases.values), len(phrases.none_of_these)
        num_phrases = logits_BP.shape[1] - num_others
        best = logits_BP[:, :num_phrases].reshape(len(logits_BP), num_values, -1).amax(dim=2)
        return torch.cat([best, logits_BP[:, num_phrases:]], dim=1)

    def _decide(self, attribute: str, scores: _Scores) -> SubjectReading:
        settings, phrases = self._settings, self._settings.phrases[attribute]
        total = sum(scores.values)
        probs = [score / total for score in scores.values]
        best = max(scores.values)
        other = max(range(len(scores.others)), key=lambda index: scores.others[index], default=None)
        if other is not None and scores.others[other] > best:
            reason = f"{phrases.missing} ({phrases.none_of_these[other]} {scores.others[other]:.2f})"
            return unread(attribute, reason, probs=probs)
        if best < settings.min_score:
            return unread(attribute, f"{phrases.missing} (best score {best:.3f})", probs=probs)
        return decide(attribute, settings.attributes[attribute], probs, min_lead=settings.min_lead)


def _pooled(features: Any) -> torch.Tensor:  # Any: a tensor, or from transformers 5 on an output that holds it
    pooled: torch.Tensor = getattr(features, "pooler_output", features)
    return pooled.float()
