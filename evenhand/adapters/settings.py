"""Which modules of a base get a low-rank addition, of which kind, rank and strength, and where it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VARIANTS = ("lora", "rslora", "dora")
INITS = ("kaiming", "gaussian", "orthogonal")
_MOVES_WEIGHTS = "it takes a part out of the base's weights, so the file on the unchanged base would give other images"
REFUSED_INITS = {
    "pissa": _MOVES_WEIGHTS,
    "olora": _MOVES_WEIGHTS,
    "corda": _MOVES_WEIGHTS,
    "lora_ga": _MOVES_WEIGHTS,
    "loftq": "it starts from what the quantization of a base's weights left over, and no base here is quantized",
    "eva": "it starts from activations on a data set, so the first step would depend on more than the seed",
    "mica": "it trains B alone, and what it leaves frozen comes from the base's weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """A module's weight ``W`` becomes ``W + scale B A``, with ``scale = alpha / rank``.

    ``targets`` is a preset of the base's UNet and ``text_encoder`` one of its text encoders; ``loaded`` stands for the
    modules that an adapter file names. ``variant``: ``lora``; ``rslora`` has ``scale = alpha / sqrt(rank)``
    (Kalajdzievski 2023, arXiv 2312.03732); ``dora`` gives every row of the sum a trained length (Liu et al. 2024, arXiv
    2402.09353). ``init``: ``kaiming`` and ``gaussian`` start with ``B = 0``; ``orthogonal`` with ``B A = 0`` up to
    rounding and neither of them 0. ``rank_pattern`` and ``alpha_pattern`` map regular expressions, which must match a
    module's name or its end from a dot on, to another rank or alpha; the first that matches counts. A text encoder's
    modules have its name before theirs: ``text_encoder.encoder.layers.0.mlp.fc1``.
    """

    rank: int
    alpha: float
    targets: Literal["cross_attention_kv", "attention", "attention_feedforward", "all", "loaded"]
    text_encoder: Literal["none", "attention", "attention_feedforward", "loaded"] = "none"
    variant: Literal["lora", "rslora", "dora"] = "lora"
    init: str = "kaiming"
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        ranks = {"rank": self.rank} | {f"rank_pattern.{key}": rank for key, rank in (self.rank_pattern or {}).items()}
        for key, rank in ranks.items():
            if type(rank) is not int or rank < 1:
                raise ValueError(f"rank must be >= 1, got {rank} (lora.{key})")
            if self.init == "orthogonal" and rank % 2:
                raise ValueError(f"init orthogonal needs even ranks, got {rank} (lora.{key})")
        alphas = {"alpha": self.alpha}
        alphas |= {f"alpha_pattern.{key}": alpha for key, alpha in (self.alpha_pattern or {}).items()}
        for key, alpha in alphas.items():
            if type(alpha) not in (int, float) or not alpha > 0:
                raise ValueError(f"alpha must be > 0, got {alpha} (lora.{key})")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r} (lora.variant)")
        if self.init in REFUSED_INITS:
            raise ValueError(
                f"init must be one of {', '.join(INITS)}, got {self.init!r}: {REFUSED_INITS[self.init]} (lora.init)"
            )
        if self.init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, got {self.init!r} (lora.init)")
