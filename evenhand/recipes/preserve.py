"""The captions on which an adapted model is held to its base, and the requests for their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evenhand.captions.leaks import heldout_leaks
from evenhand.captions.templates import Concept
from evenhand.recipes.curated_plan import CuratedPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An image to be made for a caption of ``preserve/``; ``number`` counts within the caption.

    ``concept`` is one that is left alone, whose neutral ``caption`` is made of ``template``; "" for other captions.
    """

    caption: str
    number: int
    concept: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preserve:
    """What ``preserve/`` holds.

    With ``explicit``, every training image under its explicit caption, and images for what the target leaves out, under
    captions that ask for it (``CuratedPlan.left_out_captions``); ``images_per_caption`` images for each of
    ``captions``; and ``empty`` images under the empty caption. Readers confirm the training images alone.
    """

    captions: tuple[str, ...]
    images_per_caption: int
    explicit: bool
    empty: int

    def __post_init__(self) -> None:
        for name, count in (("images_per_caption", self.images_per_caption), ("empty", self.empty)):
            if count < 0:
                raise ValueError(f"preserve.{name} must be >= 0, got {count}")
        twice = sorted({caption for caption in self.captions if self.captions.count(caption) > 1})
        if twice:
            raise ValueError(f"preserve.captions: {twice[0]!r} is listed twice")
        if "" in self.captions:
            raise ValueError("preserve.captions: the empty caption has its own key; set preserve.empty")

    def check(self, heldout: Sequence[Concept]) -> None:
        """Raise ValueError when a caption names a held-out concept."""
        leaks = heldout_leaks(self.captions, heldout)
        if leaks:
            raise ValueError(f"preserve.captions leak: {leaks[0]}")

    def requests(self) -> Iterator[Request]:
        """The images of captions and of the empty caption, in a fixed order."""
        for caption in self.captions:
            yield from (Request(caption=caption, number=number) for number in range(self.images_per_caption))
        yield from (Request(caption="", number=number) for number in range(self.empty))


def requests_of(plan: CuratedPlan, preserve: Preserve | None) -> tuple[Request, ...]:
    """The images of ``preserve/`` beside training images: of captions, of what a target leaves out, and leaves alone.

    ValueError for a caption that names a held-out concept, or for concepts left alone and no ``preserve/``.
    """
    if preserve is None:
        if plan.left_alone:
            raise ValueError(
                f"concept {plan.left_alone[0].name!r} is to stay as the base has it, and its images go to preserve/: "
                "recipe.preserve must not be null"
            )
        return ()
    preserve.check(plan.heldout)
    if problems := plan.grammar(list(filter(None, preserve.captions))):
        raise ValueError(f"preserve.captions have mistakes of grammar: {problems[0]}")
    requests = list(preserve.requests())
    counted = Counter(dict.fromkeys(preserve.captions, preserve.images_per_caption))
    left_out = plan.left_out_captions if preserve.explicit else ()
    for caption in (*left_out, *plan.left_alone_captions):
        number = counted[caption.text]
        counted[caption.text] += 1
        concept, template = ("", "") if caption.labels else (caption.concept, caption.template)
        requests.append(Request(caption=caption.text, number=number, concept=concept, template=template))
    return tuple(requests)
