"""``curated``: the denoising loss on a balanced set under neutral captions, and ``preserve`` on everything else.

    loss = mean_i w(t_i) |e_a(x_t, n) - target|^2  +  preserve_weight * mean_j |e_a(x_t, c) - e_0(x_t, c)|^2

``e_a`` is the UNet with the adapter, ``e_0`` the same UNet with the adapter switched off; ``n`` are the neutral
captions of the curated set, ``c`` the explicit, fixed, unrelated and empty captions of its ``preserve`` part. The
target is the base's own, noise or v. The first term is the loss that the base was trained with, on data that its
training lacked; the second keeps what is asked for explicitly, and what is not meant, as it was (cf. learning without
forgetting, Li and Hoiem 2016). Needs: a curated set with a ``preserve`` part where ``preserve_weight`` is above 0.

``min_snr_gamma`` weights the first term as Hang et al. 2023 (arXiv 2303.09556) do: min(SNR, gamma) / SNR for noise,
min(SNR, gamma) / (SNR + 1) for v. It takes weight from the noisy timesteps, where an image's contents are decided, so
for debiasing it is off unless asked for. Letters: B batch, P preserve rows, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenhand.interfaces import Batch, LoadedBase, LossTerms, TextEmbedding

if TYPE_CHECKING:
    import torch


class Curated:
    """The method of this file. ``uses_preserve`` tells the loader whether to give it preserve rows."""

    name = "curated"

    def __init__(self, *, preserve_weight: float, min_snr_gamma: float | None) -> None:
        if preserve_weight < 0:
            raise ValueError(f"preserve_weight must be >= 0, got {preserve_weight} (method.preserve_weight)")
        if min_snr_gamma is not None and not min_snr_gamma > 0:
            raise ValueError(f"min_snr_gamma must be > 0 or null, got {min_snr_gamma} (method.min_snr_gamma)")
        self.preserve_weight = preserve_weight
        self.min_snr_gamma = min_snr_gamma
        self.uses_preserve = preserve_weight > 0

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch: one pass with the adapter over all rows, one without over the preserve rows."""
        import torch

        noisy_BCHW = base.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
        target_BCHW = base.target(batch.latents_BCHW, batch.noise_BCHW, batch.timesteps_B)
        weights_B = self._weights(base, batch.timesteps_B)
        if not self.uses_preserve:
            denoise = _weighted(base.denoise(noisy_BCHW, batch.timesteps_B, batch.text) - target_BCHW, weights_B)
            return LossTerms(total=denoise, parts={"denoise": denoise.detach()})
        kept_PCHW, kept_timesteps_P, kept_text = _preserve_rows(base, batch)
        with torch.no_grad(), base.without_adapter():
            teacher_PCHW = base.denoise(kept_PCHW, kept_timesteps_P, kept_text)
        prediction_BPCHW = base.denoise(
            torch.cat([noisy_BCHW, kept_PCHW]),
            torch.cat([batch.timesteps_B, kept_timesteps_P]),
            _joined(batch.text, kept_text),
        )
        adapted_BCHW, kept_adapted_PCHW = torch.split(prediction_BPCHW, [len(noisy_BCHW), len(kept_PCHW)])
        denoise = _weighted(adapted_BCHW - target_BCHW, weights_B)
        preserve = (kept_adapted_PCHW - teacher_PCHW).square().mean()
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


def _preserve_rows(base: LoadedBase, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, TextEmbedding]:
    """Noisy latents, timesteps and text of the preserve rows."""
    latents, noise = batch.preserve_latents_BCHW, batch.preserve_noise_BCHW
    timesteps, text = batch.preserve_timesteps_B, batch.preserve_text
    if latents is None or noise is None or timesteps is None or text is None:
        raise ValueError("preserve_weight is above 0, but the batch has no preserve rows (train.preserve_batch_size)")
    return base.add_noise(latents, noise, timesteps), timesteps, text


def _joined(first: TextEmbedding, second: TextEmbedding) -> TextEmbedding:
    import torch

    pooled = None
    if first.pooled_BD is not None and second.pooled_BD is not None:
        pooled = torch.cat([first.pooled_BD, second.pooled_BD])
    return TextEmbedding(hidden_BLD=torch.cat([first.hidden_BLD, second.hidden_BLD]), pooled_BD=pooled)
