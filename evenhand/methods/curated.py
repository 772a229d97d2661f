"""``curated``: the denoising loss on a balanced set under neutral captions, and ``preserve`` on everything else.

    loss = mean_i w(t_i) |e_a(x_t, n) - target|^2  +  preserve_weight * mean_j |e_a(x_t, c) - e_0(x_t, c)|^2

``e_a`` is the UNet with the adapter, ``e_0`` the same UNet with the adapter switched off; ``n`` are the neutral
captions of the curated set, ``c`` the explicit, fixed, unrelated and empty captions of its ``preserve`` part. The
target is the base's own, noise or v. The first term is the loss that the base was trained with, on data that its
training lacked; the second keeps what is asked for explicitly, and what is not meant, as it was (cf. learning without
forgetting, Li and Hoiem 2016). Needs: a curated set with a ``preserve`` part where ``preserve_weight`` is above 0.

``preserve_objective: images`` holds to pictures instead of to the base's prediction: the second term is then the first
one's loss on the ``preserve`` rows' own images, w(t_j) |e_a(x_t, c) - target|^2, as the prior preservation of
DreamBooth (Ruiz et al., CVPR 2023, equation 2). It needs no pass of the base, but draws towards those few images.

``min_snr_gamma`` weights denoising losses as Hang et al. 2023 (arXiv 2303.09556) do: min(SNR, gamma) / SNR for noise,
min(SNR, gamma) / (SNR + 1) for v. It takes weight from the noisy timesteps, where an image's contents are decided, so
for debiasing it is off unless asked for. Where the SNR is 0, at the end of a schedule with zero terminal SNR, the
weights are the limits of the two formulas: 1 and 0.

With ``coupled_noise`` the values of a row say in which part of the noise its noise lies (`data/noise_coupling.py`), and
the adapter learns that noise decides, as `distill.py` explains; off, it is the plain loss.

Letters: B batch, P preserve rows, C channels, H height, W width; 6 the size conditioning of SDXL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from evenhand.interfaces import Batch, LoadedBase, LossTerms
from evenhand.methods.passes import base_denoised, both_denoised, denoised, preserve_rows, train_rows

if TYPE_CHECKING:
    import torch

OBJECTIVES = ("prediction", "images")


class Curated:
    """The method of this file. ``uses_preserve`` tells the loader whether to give it preserve rows."""

    name = "curated"
    uses_explicit = False
    needs_encoders = False
    training_readers: tuple[str, ...] = ()
    max_rows: int | None = None
    rows_per_noise = 1
    virtual_concepts = 0.0

    def __init__(
        self,
        *,
        preserve_weight: float,
        preserve_objective: Literal["prediction", "images"],
        min_snr_gamma: float | None,
        coupled_noise: bool,
    ) -> None:
        if preserve_weight < 0:
            raise ValueError(f"preserve_weight must be >= 0, got {preserve_weight} (method.preserve_weight)")
        if preserve_objective not in OBJECTIVES:
            raise ValueError(f"preserve_objective must be one of {', '.join(OBJECTIVES)}, got {preserve_objective!r}")
        if min_snr_gamma is not None and not min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma must be > 0 or null, got {min_snr_gamma} (method.min_snr_gamma)")
        self.preserve_weight = preserve_weight
        self.preserve_objective = preserve_objective
        self.min_snr_gamma = min_snr_gamma
        self.coupled_noise = coupled_noise
        self.uses_preserve = preserve_weight > 0

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch: one pass with the adapter over all rows of one size, one without it if needed."""
        rows = train_rows(base, batch)
        weights_B = self._weights(base, batch.timesteps_B)
        if batch.weights_B is not None:
            weights_B = weights_B * batch.weights_B
        if not self.uses_preserve:
            denoise = _weighted(denoised(base, rows) - rows.target_BCHW, weights_B)
            return LossTerms(total=denoise, parts={"denoise": denoise.detach()})
        kept = preserve_rows(base, batch)
        if self.preserve_objective == "images":
            wanted_PCHW, kept_weights_P = kept.target_BCHW, self._weights(base, kept.timesteps_B)
        else:
            wanted_PCHW, kept_weights_P = base_denoised(base, kept.under(batch.preserve_teacher_text)), None
        adapted_BCHW, kept_adapted_PCHW = both_denoised(base, rows, kept)
        denoise = _weighted(adapted_BCHW - rows.target_BCHW, weights_B)
        error_PCHW = kept_adapted_PCHW - wanted_PCHW
        preserve = error_PCHW.square().mean() if kept_weights_P is None else _weighted(error_PCHW, kept_weights_P)
        return LossTerms(
            total=denoise + self.preserve_weight * preserve,
            parts={"denoise": denoise.detach(), "preserve": preserve.detach()},
        )

    def _weights(self, base: LoadedBase, timesteps_B: torch.Tensor) -> torch.Tensor:
        import torch

        snr_B = base.snr(timesteps_B)
        if self.min_snr_gamma is None:
            return torch.ones_like(snr_B)
        if base.prediction_type == "v_prediction":
            return snr_B.clamp(max=self.min_snr_gamma) / (snr_B + 1.0)
        # min(snr, gamma) / snr, written so that an SNR of 0 gives its limit 1
        return self.min_snr_gamma / snr_B.clamp(min=self.min_snr_gamma)


def _weighted(error_BCHW: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    return (weights_B * error_BCHW.square().mean(dim=(1, 2, 3))).mean()
