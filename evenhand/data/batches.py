"""The batch of every step.

Everything random is a function of (seed, step, place in the global batch), so the loader's whole state is the step, and
neither the number of processes nor a restart changes a batch. Letters: B batch, C channels, H height, W width,
L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenhand.data.augmentation import Alternatives, CaptionPair
from evenhand.data.coupling import systematic
from evenhand.data.encoded import EMPTY_CAPTION, EncodedSet
from evenhand.data.noise_coupling import NoiseCoupling
from evenhand.data.order import step_rows
from evenhand.data.rows import TRAIN
from evenhand.data.timesteps import UNIFORM, Timesteps
from evenhand.interfaces import Batch, TextEmbedding, VirtualWords
from evenhand.seeds import MAX_SEED, derive

if TYPE_CHECKING:
    import torch

PRESERVE = "preserve"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualConcepts:
    """For a share of the rows, a concept that nobody knows in the place of the row's own, in both captions alike.

    The share is that of the first step, and falls in a straight line to 0 at the step ``until``; None: it stays.
    """

    words: VirtualWords
    share: float
    until: int | None = None

    def share_at(self, step: int) -> float:
        """The share of the rows of a step."""
        return self.share if self.until is None else self.share * max(0.0, 1 - step / self.until)

    def drawn(
        self, captions: Sequence[str], explicit: Sequence[str], concepts: Sequence[str], seeds: Sequence[int], step: int
    ) -> list[int]:
        """The places of a step's rows with a virtual concept: a function of each row's seed and captions."""
        return [
            place
            for place, seed in enumerate(seeds)
            if derive(seed, "virtual") < self.share_at(step) * (MAX_SEED + 1)
            and all(self.words.stands_in(concepts[place], texts[place]) for texts in (captions, explicit))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """One stream's part of a batch, on the CPU. ``explicit`` is empty where it was not asked for.

    ``shared`` are the seeds of what rows may have in common, ``virtual`` the places of rows with a virtual concept.
    """

    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    captions: Sequence[str]
    explicit: Sequence[str]
    virtual: Sequence[int]
    size_B6: torch.Tensor
    files: tuple[str, ...]
    concepts: tuple[str, ...]
    seeds: tuple[int, ...]
    shared: tuple[int, ...]
    labels: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batch of every step. ``batch_size`` and ``preserve_batch_size`` count the rows of all processes together.

    The timesteps of a batch are stratified: row i of B draws from the i-th of B parts of the schedule, which
    ``timesteps`` make equally likely. With ``rows_per_noise`` above 1, so many neighbours among the train rows have one
    concept, and share everything that is drawn but their image (`coupling.py`). With ``coupling``, the noise of train
    rows is moved into the parts of their values (`noise_coupling.py`). With ``virtual``, a share of the train rows has
    a virtual concept; the set then has explicit captions. With ``alternatives``, other pairs of captions take the place
    of some train rows' own (`augmentation.py`). With ``noise_offset`` each channel of a train row's noise is shifted by
    so much of a normal draw (Guttenberg 2023, "Diffusion with offset noise"); preserve rows keep the noise that
    sampling begins with. Where the text encoders are trained, ``embed_text`` embeds the captions of each batch, with
    gradients.
    """

    train: EncodedSet
    preserve: EncodedSet | None
    batch_size: int
    preserve_batch_size: int
    caption_dropout: float
    noise_offset: float
    num_train_timesteps: int
    seed: int
    device: torch.device
    embed_text: Callable[[Sequence[str]], TextEmbedding] | None = None
    rows_per_noise: int = 1
    coupling: NoiseCoupling | None = None
    virtual: VirtualConcepts | None = None
    alternatives: Alternatives | None = None
    timesteps: Timesteps = UNIFORM

    def at(self, step: int, *, part: int = 0, num_parts: int = 1) -> Batch:
        """Part ``part`` of the batch of a step: every ``num_parts``-th row, counted from ``part``.

        Its train rows have one size, and so have its preserve rows; the two sizes may differ.
        """
        main = self._draw(self.train, TRAIN, step, range(part, self.batch_size, num_parts))
        explicit_text = self._stored_explicit(main)
        if self.preserve is None:
            return Batch(
                latents_BCHW=self._sent(main.latents_BCHW),
                noise_BCHW=self._sent(main.noise_BCHW),
                timesteps_B=self._sent(main.timesteps_B),
                text=self._stored(self.train, main) if self.embed_text is None else self._embedded(main)[0],
                explicit_text=explicit_text,
                size_B6=self._sent(main.size_B6),
                files=main.files,
                captions=tuple(main.captions),
                concepts=main.concepts,
                row_seeds=main.seeds,
                labels=main.labels,
            )
        kept = self._draw(self.preserve, PRESERVE, step, range(part, self.preserve_batch_size, num_parts))
        kept_stored = self._stored(self.preserve, kept)
        if self.embed_text is None:
            text, kept_text, teacher_text = self._stored(self.train, main), kept_stored, None
        else:
            (text, kept_text), teacher_text = self._embedded(main, kept), kept_stored
        return Batch(
            latents_BCHW=self._sent(main.latents_BCHW),
            noise_BCHW=self._sent(main.noise_BCHW),
            timesteps_B=self._sent(main.timesteps_B),
            text=text,
            explicit_text=explicit_text,
            size_B6=self._sent(main.size_B6),
            preserve_latents_BCHW=self._sent(kept.latents_BCHW),
            preserve_noise_BCHW=self._sent(kept.noise_BCHW),
            preserve_timesteps_B=self._sent(kept.timesteps_B),
            preserve_text=kept_text,
            preserve_teacher_text=teacher_text,
            preserve_size_B6=self._sent(kept.size_B6),
            files=main.files + kept.files,
            captions=tuple(main.captions),
            concepts=main.concepts,
            row_seeds=main.seeds,
            labels=main.labels,
        )

    def _draw(self, encoded: EncodedSet, stream: str, step: int, places: range) -> _Drawn:
        """The rows at these places of a step's batch, each with its own draws."""
        import torch

        is_train = stream == TRAIN
        batch_size = self.batch_size if is_train else self.preserve_batch_size
        dropout, offset = (self.caption_dropout, self.noise_offset) if is_train else (0.0, 0.0)
        together = self.rows_per_noise if is_train else 1
        order = step_rows(encoded.buckets, batch_size=batch_size, step=step, seed=self.seed, stream=stream)
        seeds = tuple(derive(self.seed, stream, "row", step * batch_size + place) for place in places)
        # what rows share is drawn by the seed of the first of them
        shared = tuple(
            derive(self.seed, stream, "row", step * batch_size + place - place % together) for place in places
        )
        rows = [
            order[place] if together == 1 else _sibling(encoded, order, place, together, seed=seed)
            for place, seed in zip(places, shared, strict=True)
        ]
        posterior = encoded.posterior(rows)
        shape = posterior.mean_BCHW.shape[1:]
        captions, timesteps, noises, others = [], [], [], []
        for place, row, seed in zip(places, rows, shared, strict=True):
            generator = torch.Generator().manual_seed(seed)
            share, drop = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            others.append(self._other(row, seed=seed) if is_train and drop >= dropout else None)
            own = encoded.caption_N[row] if others[-1] is None else others[-1].text
            captions.append(EMPTY_CAPTION if drop < dropout else own)
            even = (place // together + share) * together / batch_size
            timesteps.append(int(self.num_train_timesteps * self.timesteps.share(even)))
            drawn_2CHW = torch.randn((2, *shape), generator=generator)
            if self.coupling is not None and is_train:
                drawn_2CHW[1] = self.coupling.moved(drawn_2CHW[1], row)
            if offset:
                drawn_2CHW[1] += offset * torch.randn((shape[0], 1, 1), generator=generator)
            noises.append(drawn_2CHW)
        posterior_noise_BCHW, noise_BCHW = torch.stack(noises, dim=1)
        explicit = _of_rows(encoded.explicit_N, rows, [other and other.explicit for other in others])
        concepts = _of_rows(encoded.concept_N, rows, [other and other.concept for other in others])
        return _Drawn(
            latents_BCHW=posterior.mean_BCHW + posterior.std_BCHW * posterior_noise_BCHW,
            noise_BCHW=noise_BCHW,
            timesteps_B=torch.tensor(timesteps),
            captions=captions,
            explicit=explicit,
            virtual=self.virtual.drawn(captions, explicit, concepts, shared, step) if self.virtual and is_train else (),
            size_B6=encoded.size_N6[rows],
            files=tuple(encoded.files[row] for row in rows),
            concepts=concepts,
            seeds=seeds,
            shared=shared,
            labels=tuple(encoded.labels_N[row] for row in rows) if encoded.labels_N else (),
        )

    def _other(self, row: int, *, seed: int) -> CaptionPair | None:
        """The captions that take the place of a train row's own, where any do."""
        return None if self.alternatives is None else self.alternatives.draw(row, seed=seed)

    def _stored(self, encoded: EncodedSet, drawn: _Drawn) -> TextEmbedding:
        """The base's own embedding of the captions, from the cache but for virtual concepts."""
        return self._text_sent(self._with_virtual(encoded.text(drawn.captions), drawn.captions, drawn))

    def _stored_explicit(self, drawn: _Drawn) -> TextEmbedding | None:
        """The base's own embedding of the explicit captions, where the set has them."""
        if not drawn.explicit:
            return None
        return self._text_sent(self._with_virtual(self.train.text(drawn.explicit), drawn.explicit, drawn))

    def _with_virtual(self, text: TextEmbedding, captions: Sequence[str], drawn: _Drawn) -> TextEmbedding:
        """The embedding with that of virtual concepts in the places of the rows that have one."""
        if self.virtual is None or not drawn.virtual:
            return text
        places = list(drawn.virtual)
        other = self.virtual.words.embed(
            [captions[place] for place in places],
            [drawn.concepts[place] for place in places],
            [drawn.shared[place] for place in places],
        )
        return TextEmbedding(
            hidden_BLD=text.hidden_BLD.index_copy(0, _index(places), other.hidden_BLD.to(text.hidden_BLD)),
            pooled_BD=None
            if text.pooled_BD is None or other.pooled_BD is None
            else text.pooled_BD.index_copy(0, _index(places), other.pooled_BD.to(text.pooled_BD)),
        )

    def _embedded(self, *parts: _Drawn) -> list[TextEmbedding]:
        """Each part's captions as the text encoders that are being trained embed them, each different one once."""
        assert self.embed_text is not None, "the text encoders are not trained"
        different = sorted({caption for drawn in parts for caption in drawn.captions})
        place = {caption: index for index, caption in enumerate(different)}
        text = self.embed_text(different)

        def of(captions: Sequence[str]) -> TextEmbedding:
            indices = [place[caption] for caption in captions]
            pooled_BD = None if text.pooled_BD is None else text.pooled_BD[indices]
            return TextEmbedding(hidden_BLD=text.hidden_BLD[indices], pooled_BD=pooled_BD)

        return [of(drawn.captions) for drawn in parts]

    def _text_sent(self, text: TextEmbedding) -> TextEmbedding:
        return TextEmbedding(
            hidden_BLD=self._sent(text.hidden_BLD),
            pooled_BD=None if text.pooled_BD is None else self._sent(text.pooled_BD),
        )

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; on its way to a GPU it stops neither the GPU nor this process."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def _sibling(encoded: EncodedSet, order: Sequence[int], place: int, together: int, *, seed: int) -> int:
    """The row at a place among ``together`` that share their noise: siblings of the row that comes at the first place.

    Every row is as often the first as any other, and each of its siblings as likely, so no row is drawn more often.
    """
    first = place - place % together
    offset = derive(seed, "siblings") / (MAX_SEED + 1)
    return systematic(encoded.siblings_N[order[first]], count=together, place=place - first, offset=offset)


def _index(places: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor(places)


def _of_rows(values_N: Sequence[str], rows: Sequence[int], others: Sequence[str | None]) -> tuple[str, ...]:
    """What a set has of rows, or what takes its place; nothing where the set has none."""
    if not values_N:
        return ()
    return tuple(values_N[row] if other is None else other for row, other in zip(rows, others, strict=True))
