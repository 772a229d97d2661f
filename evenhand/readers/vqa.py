"""Reads attributes by asking a chat model about a picture: any image-text-to-text model of transformers.

A question is closed: its options are the values, that there is nobody (or nothing) to read, and "cannot tell". Each
option has a letter, and an option's score is the probability of its letter as the first token of the answer, made to
sum to one over the letters. Such models favour letters and places (Zheng et al. 2024, arXiv 2309.03882), so the options
are asked for in several orders and the scores averaged; where the orders lead to different answers, the attribute is
unread. The question must not say what the picture was asked to show: these models know who "should" be a nurse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from evenhand.readers.deciding import check_min_lead, decide, unread
from evenhand.readers.pretrained import load_network, load_text_part
from evenhand.readers.subjects import Finder, LoadedFinder, read_subjects
from evenhand.records import SubjectReading

if TYPE_CHECKING:
    import torch
    from PIL import Image

INSTRUCTION = "Answer with the letter of one option."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked for one attribute.

    ``values`` maps each value to its option's words; ``nobody`` and ``cannot_tell`` are the words of the two options
    that are no value. ``missing`` is the reason given where the answer is ``nobody``.
    """

    text: str
    values: Mapping[str, str]
    nobody: str
    cannot_tell: str
    missing: str

    def __post_init__(self) -> None:
        options = self.options
        if len(self.values) < 2 or len(set(options)) != len(options) or len(options) > len(ascii_uppercase):
            raise ValueError(f"a question needs different options for two values or more, got {list(options)}")

    @property
    def options(self) -> tuple[str, ...]:
        """The words of all options: the values', then nobody and cannot tell."""
        return (*self.values.values(), self.nobody, self.cannot_tell)

    def orders(self, which: str) -> list[tuple[int, ...]]:
        """The orders in which the options are asked for: the given one and its reverse, or all of them."""
        numbers = tuple(range(len(self.options)))
        return list(permutations(numbers)) if which == "all" else [numbers, numbers[::-1]]

    def prompt(self, order: Sequence[int]) -> str:
        """The question with its options in an order, each behind its letter."""
        lines = [f"{letter}. {self.options[number]}" for letter, number in zip(ascii_uppercase, order, strict=False)]
        return "\n".join([self.text, *lines, INSTRUCTION])


@dataclass(kw_only=True, eq=False)
class Vqa:
    """See the file's head; ``questions`` are asked for each attribute that is read.

    ``min_mass`` is the least share of the first token's probability that letters must have, in every order: a model
    that wants to say something else has not answered. ``min_lead`` is by how much the best value must lead the second.
    """

    name: str
    model: str
    revision: str | None
    license: str
    validated_on: str
    subjects: Finder | None
    questions: Mapping[str, Question]
    orders: Literal["both", "all"]
    min_mass: float
    min_lead: float
    attributes: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.attributes = {attribute: tuple(question.values) for attribute, question in self.questions.items()}
        check_min_lead(self.name, self.min_lead)
        if not 0 <= self.min_mass < 1:
            raise ValueError(f"reader {self.name}: min_mass must be at least 0 and below 1, got {self.min_mass}")

    def load(self, *, device: torch.device) -> LoadedVqa:
        """The reader on a device; ValueError when it is not there, or cannot answer with a letter."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = load_text_part(AutoProcessor, self.model, revision=self.revision, reader=self.name)
        most = max(len(question.options) for question in self.questions.values())
        letters = [_letter_tokens(self, processor.tokenizer, letter) for letter in ascii_uppercase[:most]]
        network = load_network(
            AutoModelForImageTextToText, self.model, revision=self.revision, reader=self.name, device=device
        )
        finder = None if self.subjects is None else self.subjects.load(device=device)
        return LoadedVqa(self, network, processor, finder, letters, device)


def _letter_tokens(settings: Vqa, tokenizer: Any, letter: str) -> list[int]:  # Any: transformers has no types
    """The tokens that are a letter alone, with and without the space that some chat templates leave to the answer."""
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in (letter, f" {letter}")]
    tokens = {ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
    if not tokens:
        raise ValueError(f"reader {settings.name}: the tokenizer of {settings.model} has no token for {letter!r} alone")
    return sorted(tokens)


class LoadedVqa:
    """See ``evenhand.interfaces.LoadedReader``."""

    def __init__(
        self,
        settings: Vqa,
        network: Any,  # Any: transformers has no types
        processor: Any,  # Any: transformers has no types
        finder: LoadedFinder | None,
        letters: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._network = network
        self._processor = processor
        self._finder = finder
        self._letters = letters
        self._device = device

    def read(self, images: Sequence[Image.Image]) -> list[list[SubjectReading]]:
        """For each image, every declared attribute for every subject."""
        return read_subjects(images, self._finder, self._settings.attributes, self._read)

    def _read(self, pictures: list[Image.Image]) -> list[list[SubjectReading]]:
        return [
            [self._ask(picture, attribute, question) for attribute, question in self._settings.questions.items()]
            for picture in pictures
        ]

    def _ask(self, picture: Image.Image, attribute: str, question: Question) -> SubjectReading:
        """One question in every order; pictures go through one by one, so that no padding can change an answer."""
        settings = self._settings
        num_options = len(question.options)
        scores = [0.0] * num_options
        answers = []
        orders = question.orders(settings.orders)
        for order in orders:
            probs = self.letter_probs(picture, question.prompt(order))[:num_options]
            mass = sum(probs)
            if mass < settings.min_mass:
                return unread(attribute, f"no answer (letters have {mass:.2f} of the first token)")
            for number, prob in zip(order, probs, strict=True):
                scores[number] += prob / mass / len(orders)
            best = max(range(num_options), key=lambda place: probs[place])
            answers.append((order[best], probs[best] / mass))
        given = [score / sum(scores[: len(question.values)]) for score in scores[: len(question.values)]]
        if len({number for number, _ in answers}) > 1:
            said = {question.options[number]: score for number, score in answers}
            reason = ", ".join(f"{words} {score:.2f}" for words, score in said.items())
            return unread(attribute, f"depends on the order of the options ({reason})", probs=given)
        if answers[0][0] == num_options - 2:
            return unread(attribute, f"{question.missing} ({question.nobody} {scores[-2]:.2f})", probs=given)
        if answers[0][0] == num_options - 1:
            return unread(attribute, f"cannot tell ({scores[-1]:.2f})", probs=given)
        return decide(attribute, settings.attributes[attribute], given, min_lead=settings.min_lead)

    def letter_probs(self, picture: Image.Image, prompt: str) -> list[float]:
        """The probability of each letter as the first token of the answer."""
        import torch

        with torch.no_grad():
            logits = self._network(**self.inputs(picture, prompt)).logits[0, -1]
        probs = logits.double().softmax(dim=0).cpu()
        return [float(probs[list(tokens)].sum()) for tokens in self._letters]

    def inputs(self, picture: Image.Image, prompt: str) -> Any:  # Any: transformers has no types
        """What the network takes for one question about one picture."""
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._device)
