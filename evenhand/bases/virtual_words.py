"""Virtual words: input embeddings that no word of the vocabulary has, in the place of a caption's concept.

The tokens of some known concepts have input embeddings ``E_1 .. E_K`` with mean ``m`` and, in each feature, standard
deviation ``s``. A virtual token is drawn with their mean and variance,

    w = m + sqrt(a) sum_k z_k (E_k - m) / sqrt(K) + sqrt(1 - a) s z,    a uniform in [0, 1),  z_k and z standard normal,

a part of it along the differences between known tokens, the rest in any direction. Such words are concepts that nobody
knows, with associations of their own: on tinytown, of 600 of them in the place of an occupation, the base's prediction
at pure noise lay between its explicit ones, man 0 and woman 1, at 0.10, 0.24, 0.60, 0.90 and 0.95 (quantiles of 5, 25,
50, 75 and 95 %).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from evenhand.bases.text import token_ids
from evenhand.interfaces import TextEmbedding
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

LEAST_TOKENS = 2  # of which there is a variance


class VirtualWords:
    """Captions with a virtual word for their concept, embedded by a base's text encoders.

    ``encoders`` are pairs of a tokenizer and its encoder, ``encode`` embeds captions by all of them. ValueError for
    known concepts of a single token.
    """

    def __init__(
        self,
        encoders: Sequence[tuple[Any, torch.nn.Module]],  # Any: a tokenizer of any class
        encode: Callable[[Sequence[str]], TextEmbedding],
        known: Sequence[str],
    ) -> None:
        self._encode = encode
        self._parts = [_Part(tokenizer, encoder, sorted(set(known))) for tokenizer, encoder in encoders]

    def stands_in(self, concept: str, caption: str) -> bool:
        """Whether the caption has the concept's tokens one after the other, so that others can take their place."""
        return all(part.places(concept, caption) for part in self._parts)

    def embed(self, captions: Sequence[str], concepts: Sequence[str], seeds: Sequence[int]) -> TextEmbedding:
        """Embed captions without gradients, each with the virtual word of its seed wherever its concept stands.

        ValueError where a concept does not stand in its caption.
        """
        with ExitStack() as stack:
            for number, part in enumerate(self._parts):
                words = [
                    part.word(concept, caption, seed=derive(seed, "virtual word", number))
                    for caption, concept, seed in zip(captions, concepts, seeds, strict=True)
                ]
                stack.enter_context(part.replaced(words))
            return self._encode(captions)


class _Part:
    """One text encoder's tokens and input embeddings."""

    def __init__(self, tokenizer: Any, encoder: Any, known: Sequence[str]) -> None:  # Any: of any class
        self.tokenizer = tokenizer
        self.embedding: torch.nn.Module = encoder.get_input_embeddings()
        tokens = sorted({token for concept in known for token in self.inner(concept)})
        if len(tokens) < LEAST_TOKENS:
            raise ValueError(
                f"virtual words are drawn between the words of known concepts, and {', '.join(known)} has "
                f"{len(tokens)} token: set method.virtual_concepts=0"
            )
        known_KD: torch.Tensor = encoder.get_input_embeddings().weight[tokens].detach().float().cpu()
        self.mean_D, self.std_D = known_KD.mean(dim=0), known_KD.std(dim=0, correction=0)
        self.from_mean_KD = known_KD - self.mean_D
        self.places = lru_cache(maxsize=None)(self._places)

    def inner(self, text: str) -> tuple[int, ...]:
        """The tokens of a text without start and end."""
        return token_ids(self.tokenizer, [text])[0][1:-1]

    def _places(self, concept: str, caption: str) -> tuple[slice, ...]:
        """Where in the encoder's input the concept's tokens stand one after the other; an empty concept nowhere."""
        wanted, tokens = self.inner(concept), token_ids(self.tokenizer, [caption])[0]
        found, first = [], 1
        while wanted and first + len(wanted) < len(tokens):
            here = slice(first, first + len(wanted))
            if tokens[here] == wanted:
                found.append(here)
            first += len(wanted) if tokens[here] == wanted else 1
        return tuple(found)

    def word(self, concept: str, caption: str, *, seed: int) -> tuple[tuple[slice, ...], torch.Tensor]:
        """Where a virtual word goes, and its embeddings, one for each token of the concept: a function of the seed."""
        import torch

        places = self.places(concept, caption)
        if not places:
            raise ValueError(f"the concept {concept!r} does not stand in the caption {caption!r}")
        generator = torch.Generator().manual_seed(seed)
        count, num_known = places[0].stop - places[0].start, len(self.from_mean_KD)
        share_T1 = torch.rand((count, 1), generator=generator)
        along_TD = torch.randn((count, num_known), generator=generator) @ self.from_mean_KD / num_known**0.5
        any_TD = torch.randn((count, len(self.std_D)), generator=generator) * self.std_D
        return places, self.mean_D + share_T1.sqrt() * along_TD + (1 - share_T1).sqrt() * any_TD

    @contextmanager
    def replaced(self, words: Sequence[tuple[tuple[slice, ...], torch.Tensor]]) -> Iterator[None]:
        """Inside, the encoder reads these words: one for each caption of its next batch."""

        def put(_module: torch.nn.Module, _inputs: Any, output_BLD: torch.Tensor) -> torch.Tensor:  # Any: its tokens
            assert len(output_BLD) == len(words), "a word for each caption"
            output_BLD = output_BLD.clone()
            for row, (places, word_TD) in enumerate(words):
                for place in places:
                    output_BLD[row, place] = word_TD.to(output_BLD)
            return output_BLD

        handle = self.embedding.register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()
