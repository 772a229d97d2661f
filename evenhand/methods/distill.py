"""``distill``: what the base answers under explicit captions, learned under neutral ones, and ``preserve`` on the rest.

    loss = mean_i |e_a(x_t, n) - e_0(x_t, n+v)|^2  +  preserve_weight * mean_j |e_a(x_t, c) - e_0(x_t, c)|^2

``e_a`` is the UNet with the adapter, ``e_0`` the same UNet with the adapter switched off. ``n`` is a row's neutral
caption, ``n+v`` the same caption with the row's values named (its ``explicit`` column), ``x_t`` the row's image made
noisy, which the base itself made under ``n+v``; ``c`` are the captions of the ``preserve`` part.

Values come in the shares pi of the target. What minimises the first term at an ``x_t`` is the mean of the teachers over
the values that it may show,

    e*(x_t, n) = sum_v p(v | x_t) e_0(x_t, n+v),    p(v | x_t) ~ pi_v p_0(x_t | n+v),

and that is the base's prediction for the mixture sum_v pi_v p_0(x | n+v): its score is the same mean of the parts'
scores (cf. Vincent 2011, "A connection between score matching and denoising autoencoders", and distillation, Hinton et
al. 2015). `curated` has the same minimiser where its images are the base's own, but regresses on drawn noise, whose
variance around ``e_0(x_t, n+v)`` is 4 times (at the noisy end of tinytown's schedule) to 600 times (at its clean end)
the squared distance between ``e_0(x_t, n+v)`` and ``e_0(x_t, n)``, which is what there is to learn. Here all that is
left is the variance of the teachers. No reader takes part.

Five things make it fast, and hold where nothing was trained:

- Where an image's value is plain, at low noise, the base answers alike under ``n`` and ``n+v``, and there is nothing to
  learn: ``timesteps=noisy`` draws noisy timesteps more often.
- Where ``x_t`` is nearly noise, a row's teacher hangs on the value that it happens to have. ``rows_per_noise`` rows of
  one concept, with its values spread evenly, share noise and timestep, and that error cancels (`data/coupling.py`).
- **Noise decides.** At the noisy end p(v | x_t) is pi_v, so the adapter must answer with a mean of the teachers in
  which each word's own lean is cancelled, and what is left of the lean of a word that it does not know moves the
  shares. With ``coupled_noise`` a row's value says in which part of the noise its noise lies
  (`data/noise_coupling.py`), so p(v | x_t) is near 0 or 1 from the first step on, and the adapter is to answer with one
  teacher, the same for all words. That asks more of it than a mean does, hence ``lora=all``: LoRA on self-attention
  alone hardly learned it. Which of the other layers it takes was not measured.
- An adapter learns a list of concepts before it learns what they have in common. In a share ``virtual_concepts`` of the
  rows the concept is a word that nobody knows (`bases/virtual_words.py`), in ``n`` and ``n+v`` alike, with a prior
  p_0(v | n) of its own, in either direction. Student and teacher need no image of it: at noisy ``x_t`` any image with
  the row's values will do. The share is that of the first step; it falls in a straight line to 0 at four fifths of
  them, so that the known concepts are fitted last.

``train.caption_dropout`` regresses the empty caption on the teachers too.

Needs: a curated set with the column ``explicit``, whose images are the base's own (of other images the answers are
still the base's, but the mean above is taken over what those images may show), and with a ``preserve`` part where
``preserve_weight`` is above 0.

Letters: B batch, P preserve rows, C channels, H height, W width.
"""

from __future__ import annotations

from evenhand.interfaces import Batch, LoadedBase, LossTerms
from evenhand.methods.passes import (
    base_both_denoised,
    base_denoised,
    both_denoised,
    denoised,
    mean_square,
    preserve_rows,
    train_rows,
)


class Distill:
    """The method of this file."""

    name = "distill"
    uses_explicit = True
    needs_encoders = False
    training_readers: tuple[str, ...] = ()
    max_rows: int | None = None

    def __init__(
        self, *, preserve_weight: float, rows_per_noise: int, coupled_noise: bool, virtual_concepts: float
    ) -> None:
        if preserve_weight < 0:
            raise ValueError(f"preserve_weight must be >= 0, got {preserve_weight} (method.preserve_weight)")
        if rows_per_noise < 1:
            raise ValueError(f"rows_per_noise must be >= 1, got {rows_per_noise} (method.rows_per_noise)")
        if not 0 <= virtual_concepts <= 1:
            raise ValueError(f"virtual_concepts must be in [0, 1], got {virtual_concepts} (method.virtual_concepts)")
        self.rows_per_noise = rows_per_noise
        self.coupled_noise = coupled_noise
        self.virtual_concepts = virtual_concepts
        self.preserve_weight = preserve_weight
        self.uses_preserve = preserve_weight > 0

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch: over all rows of one size, one pass with the adapter and one without it.

        The two passes have the same rows in the same order, so that equal predictions are equal bit for bit.
        """
        if batch.explicit_text is None:
            raise ValueError("method distill needs explicit captions, and the batch has none (column explicit)")
        rows = train_rows(base, batch)
        explicit = rows.under(batch.explicit_text)
        if not self.uses_preserve:
            distill = mean_square(denoised(base, rows) - base_denoised(base, explicit), batch.weights_B)
            return LossTerms(total=distill, parts={"distill": distill.detach()})
        kept = preserve_rows(base, batch)
        wanted_BCHW, kept_wanted_PCHW = base_both_denoised(base, explicit, kept.under(batch.preserve_teacher_text))
        adapted_BCHW, kept_adapted_PCHW = both_denoised(base, rows, kept)
        distill = mean_square(adapted_BCHW - wanted_BCHW, batch.weights_B)
        preserve = (kept_adapted_PCHW - kept_wanted_PCHW).square().mean()
        return LossTerms(
            total=distill + self.preserve_weight * preserve,
            parts={"distill": distill.detach(), "preserve": preserve.detach()},
        )
