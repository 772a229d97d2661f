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

Letters: B batch, P preserve rows, C channels, H height, W width; 6 the size conditioning of SDXL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evenhand.interfaces import Batch, LoadedBase, LossTerms, TextEmbedding

if TYPE_CHECKING:
    import torch

OBJECTIVES = ("prediction", "images")


class Curated:
    """The method of this file. ``uses_preserve`` tells the loader whether to give it preserve rows."""

    name = "curated"

    def __init__(
        self,
        *,
        preserve_weight: float,
        preserve_objective: Literal["prediction", "images"],
        min_snr_gamma: float | None,
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
        self.uses_preserve = preserve_weight > 0

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch: one pass with the adapter over all rows of one size, one without it if needed."""
        rows = _rows(base, batch)
        weights_B = self._weights(base, batch.timesteps_B)
        if not self.uses_preserve:
            denoise = _weighted(_denoised(base, rows) - rows.target_BCHW, weights_B)
            return LossTerms(total=denoise, parts={"denoise": denoise.detach()})
        kept = _preserve_rows(base, batch)
        if self.preserve_objective == "images":
            wanted_PCHW, kept_weights_P = kept.target_BCHW, self._weights(base, kept.timesteps_B)
        else:
            wanted_PCHW, kept_weights_P = _teacher(base, kept, batch.preserve_teacher_text), None
        adapted_BCHW, kept_adapted_PCHW = _both_denoised(base, rows, kept)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What the UNet is given for some rows, and what it is to predict."""

    noisy_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    text: TextEmbedding
    size_B6: torch.Tensor | None


def _rows(base: LoadedBase, batch: Batch) -> _Rows:
    return _Rows(
        noisy_BCHW=base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B),
        target_BCHW=base.target(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B),
        timesteps_B=batch.timesteps_B,
        text=batch.text,
        size_B6=batch.size_B6,
    )


def _preserve_rows(base: LoadedBase, batch: Batch) -> _Rows:
    latents, noise = batch.preserve_latents_BCHW, batch.preserve_noise_BCHW
    timesteps, text = batch.preserve_timesteps_B, batch.preserve_text
    if latents is None or noise is None or timesteps is None or text is None:
        raise ValueError("preserve_weight is above 0, but the batch has no preserve rows (train.preserve_batch_size)")
    return _Rows(
        noisy_BCHW=base.add_noise(latents, noise, timesteps),
        target_BCHW=base.target(latents, noise, timesteps),
        timesteps_B=timesteps,
        text=text,
        size_B6=batch.preserve_size_B6,
    )


def _denoised(base: LoadedBase, rows: _Rows) -> torch.Tensor:
    return base.denoise(rows.noisy_BCHW, rows.timesteps_B, rows.text, size_B6=rows.size_B6)


def _teacher(base: LoadedBase, kept: _Rows, text: TextEmbedding | None) -> torch.Tensor:
    """What the base itself predicts, from its own embedding of the captions where that differs."""
    import torch

    with torch.no_grad(), base.without_adapter():
        return base.denoise(
            kept.noisy_BCHW, kept.timesteps_B, kept.text if text is None else text, size_B6=kept.size_B6
        )


def _both_denoised(base: LoadedBase, rows: _Rows, kept: _Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions for both kinds of rows: in one pass, or in two where their images differ in shape."""
    import torch

    if rows.noisy_BCHW.shape[1:] != kept.noisy_BCHW.shape[1:]:
        return _denoised(base, rows), _denoised(base, kept)
    prediction_BPCHW = base.denoise(
        torch.cat([rows.noisy_BCHW, kept.noisy_BCHW]),
        torch.cat([rows.timesteps_B, kept.timesteps_B]),
        TextEmbedding(
            hidden_BLD=torch.cat([rows.text.hidden_BLD, kept.text.hidden_BLD]),
            pooled_BD=_joined(rows.text.pooled_BD, kept.text.pooled_BD),
        ),
        size_B6=_joined(rows.size_B6, kept.size_B6),
    )
    adapted_BCHW, kept_adapted_PCHW = torch.split(prediction_BPCHW, [len(rows.noisy_BCHW), len(kept.noisy_BCHW)])
    return adapted_BCHW, kept_adapted_PCHW


def _joined(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    import torch

    if first is None or second is None:
        return None
    return torch.cat([first, second])


def _weighted(error_BCHW: torch.Tensor, weights_B: torch.Tensor) -> torch.Tensor:
    return (weights_B * error_BCHW.square().mean(dim=(1, 2, 3))).mean()
