"""``closed_form``: a least-squares edit of the keys and values of cross-attention; one solution instead of a training.

Each of these projections W of the UNet becomes W + D, where D, of the adapter's rank, makes the least of

    J(D) = sum_i w_i mean_l |(W + D) k_il - W k*_il|^2  +  preserve_weight * mean_j mean_l |D k_jl|^2  +  r |D|^2.

``k_il`` is the embedding of token l of the neutral caption n_i, ``k*_il`` the mean, over the target mixture, of that of
the same token in the explicit captions n_i+v, and j are the captions of the ``preserve`` part. Of all D, the least has
(equation 7 of Gandikota et al., "Unified Concept Editing in Diffusion Models", WACV 2024, with the edits E and the
preserved concepts P):

    D = W C A^-1,   C = sum_i w_i mean_l (k* - k) k^T,   A = sum_i w_i mean_l k k^T + preserve_weight mean_jl k k^T + r.

The mixture is the curated set's own: a concept's combinations of values get the shares that the set's quotas gave them,
whatever number of rows each caption has. Where we differ from UCE on purpose:

- Its targets are W (k + sum_v a_v k_v), whose a_v are searched for by making and reading pictures, again and again, and
  for one concept after the other; ours need no reader and no picture, and all concepts are solved for at once.
- Its edit is a dense matrix. The best D of rank R is not the SVD of D but that of D A^1/2, cut off and multiplied by
  A^-1/2, since J(D') = J(D) + |(D' - D) A^1/2|^2 (reduced-rank regression, Izenman 1975). ``lost`` says which part of
  what the edit could gain it costs.
- r is ``ridge`` times the mean of A's diagonal, so that one number suits bases of different embeddings.

Tokens of two captions belong together where the captions begin alike, where they end alike, and in the padding behind
them at the same place: padding holds much of what a caption says, at places of its own. What has no counterpart is left
out. A pooled embedding, as SDXL has one, is not touched by keys and values.

A mean of keys and values is one caption, not a mixture of pictures: a base that reads a value from its own word alone,
which the neutral caption lacks, goes on as before. Measure what an adapter does.

Letters: B captions, L tokens, D features of the text embedding, O outputs, R rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from evenhand.interfaces import LoadedBase, Solution
from evenhand.records import Example

if TYPE_CHECKING:
    import torch

TEXTS_TOGETHER = 64


class ClosedForm:
    """The method of this file; see ``evenhand.interfaces.DirectMethod``."""

    name = "closed_form"
    targets = "cross_attention_kv"
    training_readers: tuple[str, ...] = ()
    uses_explicit = False  # it takes the column where it is there, and else what ``preserve`` shows

    def __init__(self, *, preserve_weight: float, ridge: float) -> None:
        if preserve_weight < 0:
            raise ValueError(f"preserve_weight must be >= 0, got {preserve_weight} (method.preserve_weight)")
        if not ridge > 0:
            raise ValueError(f"ridge must be > 0, got {ridge}: without it there may be no solution (method.ridge)")
        self.preserve_weight = preserve_weight
        self.ridge = ridge
        self.uses_preserve = preserve_weight > 0

    def check(self, rows: Mapping[str, Sequence[Example]]) -> None:
        """Raise ValueError for a training row whose explicit caption is not known."""
        explicit_captions(rows["train"], rows.get("preserve", ()))

    def solve(self, base: LoadedBase, rows: Mapping[str, Sequence[Example]], *, ranks: Mapping[str, int]) -> Solution:
        """What to add to each of the modules in ``ranks``; ``figures`` are J as a part of the base's, and its terms.

        ``error`` and ``error_preserve`` are the first two terms of J over all modules, ``lost`` is the part of the
        unlimited edit's gain that the rank cost.
        """
        train, kept = rows["train"], rows.get("preserve", ()) if self.uses_preserve else ()
        sums = _sums(base, list(zip(train, explicit_captions(train, rows.get("preserve", ())), strict=True)))
        captions = sorted({example.text for example in kept})
        kept_DD = self.preserve_weight * _second_moment(base, captions) if captions else 0.0 * sums.edit_DD
        a_DD = sums.edit_DD + kept_DD
        a_DD = a_DD + self.ridge * a_DD.diagonal().mean() * a_DD.new_ones(len(a_DD)).diag()
        return _solved(base, sums, kept_DD, inverse_root(a_DD, ridge=self.ridge), ranks)


def explicit_captions(train: Sequence[Example], preserve: Sequence[Example]) -> list[str]:
    """For each training row the caption that names its values: its own column, else that of its twin in ``preserve``.

    A twin is a row of the same concept, template, values and seed. ValueError for a row that has neither.
    """
    twins = {_identity(example): example.text for example in preserve if example.labels}
    found = []
    for example in train:
        caption = example.explicit or twins.get(_identity(example), "")
        if not caption:
            raise ValueError(
                f"{example.file_name} ({example.text!r}) has no caption that names its values: build the set anew, "
                "which writes the column explicit, or with recipe.preserve.explicit=true (and keep "
                "method.preserve_weight above 0)"
            )
        found.append(caption)
    return found


def _identity(example: Example) -> tuple[str, str, int | None, tuple[tuple[str, str], ...]]:
    return example.concept, example.template, example.seed, _cell(example)


def _cell(example: Example) -> tuple[tuple[str, str], ...]:
    """The combination of values that a row has."""
    return tuple(sorted(example.labels.items()))


def row_weights(examples: Sequence[Example]) -> list[float]:
    """The weight of each row: concepts weigh alike, and within a combination of values the captions that have it do.

    So where every caption of a concept has rows of every combination, each gets the concept's own mixture, however many
    rows of each it has; where some lack one, the concept's captions together do.
    """
    rows = Counter((e.concept, _cell(e), e.text) for e in examples)
    of_cell = Counter((e.concept, _cell(e)) for e in examples)
    of_concept = Counter(e.concept for e in examples)
    captions = Counter((concept, cell) for concept, cell, _ in rows)
    return [
        of_cell[e.concept, _cell(e)]
        / (of_concept[e.concept] * len(of_concept) * captions[e.concept, _cell(e)] * rows[e.concept, _cell(e), e.text])
        for e in examples
    ]


def token_pairs(neutral: Sequence[int], explicit: Sequence[int], num_tokens: int) -> list[tuple[int, int]]:
    """Which places of two captions of ``num_tokens`` tokens, padding included, belong together.

    The captions are given with start and end and without padding, which belongs to the padding of the same place.
    """
    shorter = min(len(neutral), len(explicit))
    alike = [one == other for one, other in zip(neutral, explicit, strict=False)]
    start = alike.index(False) if False in alike else shorter
    alike = [one == other for one, other in zip(reversed(neutral), reversed(explicit), strict=False)]
    end = min(alike.index(False) if False in alike else shorter, shorter - start)
    begins = [(place, place) for place in range(start)]
    ends = [(len(neutral) - back, len(explicit) - back) for back in range(end, 0, -1)]
    padding = [(place, place) for place in range(max(len(neutral), len(explicit)), num_tokens)]
    return begins + ends + padding


class _Sums(NamedTuple):
    """Sums over the edits, in float64: ``k k^T``, ``(k* - k) k^T`` and ``(k* - k) (k* - k)^T``."""

    edit_DD: torch.Tensor
    cross_DD: torch.Tensor
    wanted_DD: torch.Tensor


def _sums(base: LoadedBase, pairs: Sequence[tuple[Example, str]]) -> _Sums:
    import torch

    explicit_of: dict[str, dict[str, float]] = {}
    for (example, explicit), weight in zip(pairs, row_weights([example for example, _ in pairs]), strict=True):
        texts = explicit_of.setdefault(example.text, {})
        texts[explicit] = texts.get(explicit, 0.0) + weight
    hidden = dict(_embedded(base, sorted({*explicit_of, *(text for texts in explicit_of.values() for text in texts)})))
    tokens = dict(zip(hidden, base.token_ids(list(hidden)), strict=True))
    keys, moves = [], []
    for neutral, texts in explicit_of.items():
        k_LD = hidden[neutral]
        weight_L, move_LD = k_LD.new_zeros(len(k_LD)), torch.zeros_like(k_LD)
        for explicit, weight in texts.items():
            here, there = zip(*token_pairs(tokens[neutral], tokens[explicit], len(k_LD)), strict=True)
            weight_L[list(here)] += weight / len(here)
            move_LD[list(here)] += weight / len(here) * (hidden[explicit][list(there)] - k_LD[list(here)])
        root_L1 = weight_L[weight_L > 0, None].sqrt()
        keys.append(root_L1 * k_LD[weight_L > 0])
        moves.append(move_LD[weight_L > 0] / root_L1)  # of the mean over the caption's rows
    k_ND, move_ND = torch.cat(keys), torch.cat(moves)
    return _Sums(edit_DD=k_ND.T @ k_ND, cross_DD=move_ND.T @ k_ND, wanted_DD=move_ND.T @ move_ND)


def _second_moment(base: LoadedBase, captions: Sequence[str]) -> torch.Tensor:
    """The mean over captions and tokens of ``k k^T``."""
    import torch

    k_ND = torch.cat([hidden_LD for _, hidden_LD in _embedded(base, captions)])
    return k_ND.T @ k_ND / len(k_ND)


def _embedded(base: LoadedBase, captions: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each caption with the base's embedding of its tokens, in float64 on CPU."""
    for at in range(0, len(captions), TEXTS_TOGETHER):
        some = captions[at : at + TEXTS_TOGETHER]
        yield from zip(some, base.encode_text(some).hidden_BLD.double().cpu(), strict=True)


def inverse_root(a_DD: torch.Tensor, *, ridge: float) -> torch.Tensor:
    """``A^-1/2`` of A with its ridge; ValueError for one that rounding swallows, as there is no one solution then."""
    import torch

    values_D, vectors_DD = torch.linalg.eigh(a_DD)
    least = len(a_DD) * torch.finfo(a_DD.dtype).eps * values_D[-1]
    if not values_D[0] > least:
        raise ValueError(f"ridge={ridge} is too small for these captions: take 1e-8 or more (method.ridge)")
    root_DD: torch.Tensor = vectors_DD * values_D.rsqrt() @ vectors_DD.T
    return root_DD


def _solved(
    base: LoadedBase, sums: _Sums, kept_DD: torch.Tensor, inverse_root_DD: torch.Tensor, ranks: Mapping[str, int]
) -> Solution:
    """The best addition of its rank to each module, and what all of them together leave of J."""
    import torch

    num_features = len(inverse_root_DD)
    factors, before, edit, kept, gain, lost = {}, 0.0, 0.0, 0.0, 0.0, 0.0
    for name, rank in ranks.items():
        weight: torch.Tensor = base.unet.get_submodule(name).weight.detach().double().cpu()  # type: ignore[operator]  # a linear layer's
        u_OK, s_K, v_KD = torch.linalg.svd(weight @ sums.cross_DD @ inverse_root_DD, full_matrices=False)
        num = min(rank, len(s_K))
        down_RD, up_OR = torch.zeros(rank, num_features).double(), torch.zeros(len(weight), rank).double()
        down_RD[:num] = s_K[:num, None].sqrt() * v_KD[:num] @ inverse_root_DD
        up_OR[:, :num] = u_OK[:, :num] * s_K[:num].sqrt()
        factors[name] = (down_RD.float(), up_OR.float())
        added_OD = up_OR @ down_RD
        wanted = float((weight @ sums.wanted_DD * weight).sum())
        before += wanted
        edit += wanted + float(((added_OD @ sums.edit_DD - 2.0 * weight @ sums.cross_DD) * added_OD).sum())
        kept += float((added_OD @ kept_DD * added_OD).sum())
        gain += float(s_K.square().sum())
        lost += float(s_K[num:].square().sum())
    scale = 1.0 / before if before > 0.0 else 0.0  # nothing to do is nothing left to do
    figures = {
        "loss": (edit + kept) * scale,
        "error": edit * scale,
        "error_preserve": kept * scale,
        "lost": lost / gain if gain > 0.0 else 0.0,
    }
    return Solution(factors=factors, figures=figures)
