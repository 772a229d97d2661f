"""The batch of every step.

Everything random is a function of (seed, step, place in the global batch), so the loader's whole state is the step, and
neither the number of processes nor a restart changes a batch. Letters: B batch, C channels, H height, W width,
L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenhand.data.encoded import EMPTY_CAPTION, EncodedSet
from evenhand.data.order import step_rows
from evenhand.data.rows import TRAIN
from evenhand.interfaces import Batch, TextEmbedding
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

PRESERVE = "preserve"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """One stream's part of a batch, on the CPU."""

    latents_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    captions: Sequence[str]
    size_B6: torch.Tensor
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The batch of every step. ``batch_size`` and ``preserve_batch_size`` count the rows of all processes together.

    The timesteps of a batch are stratified: row i of B draws from the i-th of B equal parts of the schedule. With
    ``noise_offset`` each channel of a train row's noise is shifted by so much of a normal draw (Guttenberg 2023,
    "Diffusion with offset noise"); preserve rows keep the noise that sampling begins with. Where the text encoders are
    trained, ``embed_text`` embeds the captions of each batch, with gradients.
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

    def at(self, step: int, *, part: int = 0, num_parts: int = 1) -> Batch:
        """Part ``part`` of the batch of a step: every ``num_parts``-th row, counted from ``part``.

        Its train rows have one size, and so have its preserve rows; the two sizes may differ.
        """
        main = self._draw(self.train, TRAIN, step, range(part, self.batch_size, num_parts))
        if self.preserve is None:
            return Batch(
                latents_BCHW=self._sent(main.latents_BCHW),
                noise_BCHW=self._sent(main.noise_BCHW),
                timesteps_B=self._sent(main.timesteps_B),
                text=self._stored(self.train, main) if self.embed_text is None else self._embedded(main)[0],
                size_B6=self._sent(main.size_B6),
                files=main.files,
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
            size_B6=self._sent(main.size_B6),
            preserve_latents_BCHW=self._sent(kept.latents_BCHW),
            preserve_noise_BCHW=self._sent(kept.noise_BCHW),
            preserve_timesteps_B=self._sent(kept.timesteps_B),
            preserve_text=kept_text,
            preserve_teacher_text=teacher_text,
            preserve_size_B6=self._sent(kept.size_B6),
            files=main.files + kept.files,
        )

    def _draw(self, encoded: EncodedSet, stream: str, step: int, places: range) -> _Drawn:
        """The rows at these places of a step's batch, each with its own draws."""
        import torch

        is_train = stream == TRAIN
        batch_size = self.batch_size if is_train else self.preserve_batch_size
        dropout, offset = (self.caption_dropout, self.noise_offset) if is_train else (0.0, 0.0)
        order = step_rows(encoded.buckets, batch_size=batch_size, step=step, seed=self.seed, stream=stream)
        rows = [order[place] for place in places]
        posterior = encoded.posterior(rows)
        shape = posterior.mean_BCHW.shape[1:]
        captions, timesteps, noises = [], [], []
        for place, row in zip(places, rows, strict=True):
            generator = torch.Generator().manual_seed(derive(self.seed, stream, "row", step * batch_size + place))
            share, drop = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            captions.append(EMPTY_CAPTION if drop < dropout else encoded.caption_N[row])
            timesteps.append(int(self.num_train_timesteps * (place + share) / batch_size))
            drawn_2CHW = torch.randn((2, *shape), generator=generator)
            if offset:
                drawn_2CHW[1] += offset * torch.randn((shape[0], 1, 1), generator=generator)
            noises.append(drawn_2CHW)
        posterior_noise_BCHW, noise_BCHW = torch.stack(noises, dim=1)
        return _Drawn(
            latents_BCHW=posterior.mean_BCHW + posterior.std_BCHW * posterior_noise_BCHW,
            noise_BCHW=noise_BCHW,
            timesteps_B=torch.tensor(timesteps),
            captions=captions,
            size_B6=encoded.size_N6[rows],
            files=tuple(encoded.files[row] for row in rows),
        )

    def _stored(self, encoded: EncodedSet, drawn: _Drawn) -> TextEmbedding:
        """The base's own embedding of the captions, from the cache."""
        text = encoded.text(drawn.captions)
        return TextEmbedding(
            hidden_BLD=self._sent(text.hidden_BLD),
            pooled_BD=None if text.pooled_BD is None else self._sent(text.pooled_BD),
        )

    def _embedded(self, *parts: _Drawn) -> list[TextEmbedding]:
        """Each part's captions as the text encoders that are being trained embed them, each different one once."""
        assert self.embed_text is not None, "the text encoders are not trained"
        different = sorted({caption for drawn in parts for caption in drawn.captions})
        place = {caption: index for index, caption in enumerate(different)}
        text = self.embed_text(different)
        chosen = [[place[caption] for caption in drawn.captions] for drawn in parts]
        return [
            TextEmbedding(
                hidden_BLD=text.hidden_BLD[indices],
                pooled_BD=None if text.pooled_BD is None else text.pooled_BD[indices],
            )
            for indices in chosen
        ]

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; on its way to a GPU it stops neither the GPU nor this process."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)
