"""``align``: distributional alignment: pictures made in the loop are read and pulled towards a target.

After Shen et al., "Finetuning text-to-image diffusion models for fairness", ICLR 2024.

    loss =   mean_b mean_s  [c_s >= C] CE(reader(x_s), y_s)                                    align
           + image_weight    mean_i  w_i |z_i - z0_i|^2                                         image
           + kept_weight     mean_i  KL(reader(x0_i), reader(x_i)) over other attributes        kept
           + preserve_weight mean_j  |e_a(x_t, c) - e_0(x_t, c)|^2                              preserve

Each row of a batch is a prompt b, its neutral caption; the row's picture is not used. The adapted base makes
``images_per_prompt`` pictures x of it in a few steps, z are their latents, z0 and x0 what the base itself makes of the
same noise. A reader with gradients reads every subject s. Within a prompt, optimal transport to draws of the concept's
target says which value y each subject should show, and how surely, c: ``evenhand.methods.transport``. The gradient goes
through the reader, the VAE and the sampler's last ``gradient_steps``, adjusted or exact: ``evenhand.methods.unrolled``.
w is 1 where a picture may stay as it is and ``changed_image_weight`` where its pseudo-target is unsure or another value
than the base's picture shows. ``preserve`` is `curated`'s, on the captions that must not change.

What differs from the paper on purpose: target, attributes and cells are data (one attribute, several with their own
targets, a joint one; a concept whose target is ``base`` is only held to the base's pictures), not code; pictures are
matched within each prompt, with a step of several prompts, so that accumulation and processes change nothing; a group's
subjects are matched one by one; pictures are held to the base's by latents and by the reader's other attributes, not by
CLIP's and DINO's features; there is no term for the realism of faces.

Everything drawn is a function of the row's seed. The reader has a say in the weights, so it may not evaluate them: the
adapter's card names it. Needs: a reader with gradients, and the VAE in memory.

Letters: B prompts, N pictures of all prompts, S places of a subject, K cells, C channels, H height, W width, L tokens,
D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evenhand.captions.quotas import JOINT, TargetChoice, cell_shares, joint_attribute
from evenhand.interfaces import Batch, LoadedBase, LossTerms, TextEmbedding
from evenhand.methods.passes import base_denoised, denoised, preserve_rows
from evenhand.methods.transport import pseudo_targets
from evenhand.methods.unrolled import GRADIENTS, Predict, ddim_steps, sample_latents
from evenhand.readers.differentiable import AttributeLogits, DifferentiableReader, LoadedDifferentiableReader
from evenhand.records import Attribute, Example, Target
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

Readings = Mapping[str, AttributeLogits]
OF_ALL = "joint"  # the key of a target for all attributes together


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """Log-probabilities of the cells for every subject, and who is a subject in whom all attributes can be read."""

    log_probs_NSK: torch.Tensor
    shown_NS: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The cell that each subject should show, what it weighs in the loss, who has one, and who is pulled to it."""

    cell_NS: torch.Tensor
    weight_NS: torch.Tensor
    asked_NS: torch.Tensor
    pulled_NS: torch.Tensor


class Align:
    """The method of this file.

    ``attributes`` are taken in the mapping's order, its keys are free. ``target`` is for each attribute that
    ``targets`` does not name; a key of ``targets`` such as ``presentation,skin`` asks for a joint one, and ``joint``
    for one of all. ``evaluated_by`` is the reader that will evaluate the adapter, and must be another one.
    """

    name = "align"
    uses_explicit = coupled_noise = False
    rows_per_noise = 1
    virtual_concepts = 0.0
    needs_encoders = True

    def __init__(
        self,
        *,
        attributes: Mapping[str, Attribute],
        target: TargetChoice,
        targets: Mapping[str, TargetChoice],
        reader: DifferentiableReader,
        evaluated_by: str,
        images_per_prompt: int,
        max_images: int,
        sampling_steps: int,
        gradient_steps: int,
        gradient: Literal["adjusted", "exact"],
        guidance: float,
        num_draws: int,
        min_confidence: float,
        image_weight: float,
        changed_image_weight: float,
        kept_attributes: Sequence[str],
        kept_weight: float,
        preserve_weight: float,
    ) -> None:
        self.attributes = tuple(attributes.values())
        self.targets = tuple(_targets(self.attributes, target, targets))
        self.reader = reader
        self.images_per_prompt, self.max_images = images_per_prompt, max_images
        self.sampling_steps, self.gradient_steps, self.gradient = sampling_steps, gradient_steps, gradient
        self.guidance = guidance
        self.num_draws, self.min_confidence = num_draws, min_confidence
        self.image_weight, self.changed_image_weight = image_weight, changed_image_weight
        self.kept_attributes, self.kept_weight = tuple(kept_attributes), kept_weight
        self.preserve_weight = preserve_weight
        self.uses_preserve = preserve_weight > 0
        self.training_readers: tuple[str, ...] = (reader.name,)
        self._check_reader(evaluated_by)
        self._check_numbers()
        self.max_rows: int | None = max_images // images_per_prompt
        self._loaded: tuple[torch.device, LoadedDifferentiableReader] | None = None

    def _check_reader(self, evaluated_by: str) -> None:
        reader = self.reader
        if reader.name == evaluated_by:
            raise ValueError(
                f"the reader {reader.name} will evaluate (evaluated_by), so it may not sit in the training loop: take "
                "another one (reader@method.reader=...)"
            )
        if not getattr(reader, "differentiable", False):
            raise ValueError(
                f"reader {reader.name} gives no gradients for pixels, which method align needs: take a classifier "
                "without a finder (reader@method.reader=tinytown_a)"
            )
        for attribute in self.attributes:
            found = reader.attributes.get(attribute.name)
            if found is None or set(found) != set(attribute.values):
                raise ValueError(
                    f"reader {reader.name} must read {attribute.name} with the values {list(attribute.values)}, but "
                    f"reads {'it not' if found is None else list(found)}"
                )
        for name in self.kept_attributes:
            if name not in reader.attributes or name in {attribute.name for attribute in self.attributes}:
                raise ValueError(
                    f"method.kept_attributes: {name!r} must be one of the reader's attributes "
                    f"({', '.join(reader.attributes)}) and not one that is to change"
                )

    def _check_numbers(self) -> None:
        for name in ("images_per_prompt", "sampling_steps", "gradient_steps", "num_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)} (method.{name})")
        if self.max_images < self.images_per_prompt:
            raise ValueError(
                f"max_images must be >= images_per_prompt ({self.images_per_prompt}), got {self.max_images} "
                "(method.max_images)"
            )
        if self.gradient_steps > self.sampling_steps:
            raise ValueError(
                f"gradient_steps must be at most sampling_steps ({self.sampling_steps}), got {self.gradient_steps}"
            )
        if self.gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {self.gradient!r} (method.gradient)")
        if self.guidance < 1:
            raise ValueError(f"guidance must be >= 1 (1 is off), got {self.guidance} (method.guidance)")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be in [0, 1], got {self.min_confidence} (method.min_confidence)")
        for name in ("image_weight", "changed_image_weight", "kept_weight", "preserve_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)} (method.{name})")
        if bool(self.kept_attributes) != (self.kept_weight > 0):
            raise ValueError(
                f"kept_weight={self.kept_weight} and kept_attributes={list(self.kept_attributes)} go together: name "
                "attributes and a weight above 0, or neither"
            )

    def check(self, rows: Mapping[str, Sequence[Example]]) -> None:
        """Raise ValueError for a concept without a target, and where none is to change."""
        concepts = list(dict.fromkeys(example.concept for example in rows["train"]))
        if not cell_shares(self.attributes, self.targets, concepts):
            raise ValueError(
                f"every concept of the set is to stay as the base has it ({', '.join(concepts)}), so there is nothing "
                "to align (method.target, method.targets)"
            )

    def prepare(self, base: LoadedBase) -> None:
        """Load the reader and try it on an empty picture; ValueError for what it or the base cannot give."""
        import torch

        ddim_steps(base, self.sampling_steps)
        device = next(base.unet.parameters()).device
        with torch.no_grad():
            pixels_1CHW = torch.zeros((1, 3, base.resolution_px, base.resolution_px), device=device)
            readings = self._reader_on(device).logits(pixels_1CHW)
        for name in (*(attribute.name for attribute in self.attributes), *self.kept_attributes):
            if name not in readings:
                raise ValueError(
                    f"reader {self.reader.name} gives no gradients for {name}; it does for {', '.join(readings)}"
                )

    def loss(self, base: LoadedBase, batch: Batch) -> LossTerms:
        """The objective on one batch of prompts: ``parts`` are its terms, and the shares of pictures that show somebody
        (``shown``) and that are pulled to a value (``pulled``). ValueError for a batch without concepts or seeds.
        """
        import torch

        if len(batch.concepts) != len(batch.noise_BCHW) or len(batch.row_seeds) != len(batch.noise_BCHW):
            raise ValueError("method align needs each row's concept and seed, and the batch has none")
        reader = self._reader_on(batch.noise_BCHW.device)
        noise_NCHW = self._noise(batch)
        latents_NCHW = self._sampled(base, batch.text, noise_NCHW, gradient_steps=self.gradient_steps)
        readings = _read(reader, base, latents_NCHW)
        cells = self._cells(readings)
        wanted = self._wanted(batch, cells)
        picked_NS = cells.log_probs_NSK.gather(2, wanted.cell_NS[..., None])[..., 0]
        total = align = -(wanted.weight_NS * picked_NS).sum()
        parts = {"align": align}
        if self.image_weight or self.kept_weight:
            with torch.no_grad(), base.without_adapter():
                text = base.encode_text(batch.captions) if batch.text.hidden_BLD.requires_grad else batch.text
                base_NCHW = self._sampled(base, text, noise_NCHW, gradient_steps=0)
                base_readings = _read(reader, base, base_NCHW)
            weight_N = self._image_weights(wanted, self._cells(base_readings))
            parts["image"] = (weight_N * (latents_NCHW - base_NCHW).square().mean(dim=(1, 2, 3))).mean()
            total = total + self.image_weight * parts["image"]
            if self.kept_weight:
                parts["kept"] = _divergence(base_readings, readings, self.kept_attributes)
                total = total + self.kept_weight * parts["kept"]
        if self.uses_preserve:
            kept = preserve_rows(base, batch)
            teacher_PCHW = base_denoised(base, kept.under(batch.preserve_teacher_text))
            parts["preserve"] = (denoised(base, kept) - teacher_PCHW).square().mean()
            total = total + self.preserve_weight * parts["preserve"]
        parts["shown"] = cells.shown_NS.any(dim=1).float().mean()
        parts["pulled"] = wanted.pulled_NS.any(dim=1).float().mean()
        return LossTerms(total=total, parts={name: part.detach() for name, part in parts.items()})

    def _reader_on(self, device: torch.device) -> LoadedDifferentiableReader:
        """The reader, loaded where and when it is first needed."""
        if self._loaded is None or self._loaded[0] != device:
            self._loaded = (device, self.reader.load(device=device))
        return self._loaded[1]

    def _noise(self, batch: Batch) -> torch.Tensor:
        """The noise that each picture of each prompt starts from."""
        import torch

        shape = batch.noise_BCHW.shape[1:]
        noises = [
            torch.randn(shape, generator=torch.Generator().manual_seed(derive(seed, "image", number)))
            for seed in batch.row_seeds
            for number in range(self.images_per_prompt)
        ]
        return torch.stack(noises).to(batch.noise_BCHW.device)

    def _sampled(
        self, base: LoadedBase, text: TextEmbedding, noise_NCHW: torch.Tensor, *, gradient_steps: int
    ) -> torch.Tensor:
        """Latents of all pictures, with whatever adapter is active."""
        predict = self._predictor(base, _repeated(text, self.images_per_prompt))
        return sample_latents(
            predict,
            noise_NCHW,
            ddim_steps(base, self.sampling_steps),
            gradient_steps=gradient_steps,
            gradient=self.gradient,
        )

    def _predictor(self, base: LoadedBase, text: TextEmbedding) -> Predict:
        """The base's prediction, guided away from that for the empty caption where guidance is on."""
        import torch

        if self.guidance == 1:
            return lambda latents_NCHW, timesteps_N: base.denoise(latents_NCHW, timesteps_N, text)
        count = len(text.hidden_BLD)
        both = _joined(_repeated(base.embed_text([""]), count), text)

        def guided(latents_NCHW: torch.Tensor, timesteps_N: torch.Tensor) -> torch.Tensor:
            predictions = base.denoise(torch.cat([latents_NCHW] * 2), torch.cat([timesteps_N] * 2), both)
            empty_NCHW, asked_NCHW = predictions.chunk(2)
            return empty_NCHW + self.guidance * (asked_NCHW - empty_NCHW)

        return guided

    def _cells(self, readings: Readings) -> _Cells:
        """The attributes' values as cells, the last attribute's varying fastest."""
        import torch

        log_probs_NSK: torch.Tensor | None = None
        shown = []
        for attribute in self.attributes:
            order = [self.reader.attributes[attribute.name].index(value) for value in attribute.values]
            own_NSV = readings[attribute.name].logits_BSK[..., order].log_softmax(dim=2)
            shown.append(readings[attribute.name].shown_BS)
            if log_probs_NSK is None:
                log_probs_NSK = own_NSV
            else:
                log_probs_NSK = (log_probs_NSK[..., :, None] + own_NSV[..., None, :]).flatten(2)
        assert log_probs_NSK is not None, "the constructor refuses a method without attributes"
        return _Cells(log_probs_NSK=log_probs_NSK, shown_NS=torch.stack(shown).all(dim=0))

    def _wanted(self, batch: Batch, cells: _Cells) -> _Wanted:
        """Pseudo-targets within each prompt. A subject's weight makes the loss a mean over subjects, then prompts."""
        import numpy as np
        import torch

        probs_NSK = cells.log_probs_NSK.detach().double().exp().cpu().numpy()
        shown_NS = cells.shown_NS.cpu().numpy()
        cell_NS = np.zeros(shown_NS.shape, dtype=np.int64)
        weight_NS, asked_NS = np.zeros(shown_NS.shape), np.zeros(shown_NS.shape, dtype=bool)
        for row, (concept, seed) in enumerate(zip(batch.concepts, batch.row_seeds, strict=True)):
            own = slice(row * self.images_per_prompt, (row + 1) * self.images_per_prompt)
            shares = cell_shares(self.attributes, self.targets, [concept]).get(concept)
            shown = shown_NS[own]
            if shares is None or not shown.any():
                continue
            found = pseudo_targets(
                probs_NSK[own][shown],
                np.array([float(share) for share in shares]),
                num_draws=self.num_draws,
                seed=derive(seed, "target"),
            )
            cell_NS[own][shown], asked_NS[own] = found.cell_N, shown
            sure = found.confidence_N >= self.min_confidence
            weight_NS[own][shown] = sure / (shown.sum() * len(batch.concepts))
        device = cells.log_probs_NSK.device
        weights = torch.from_numpy(weight_NS).to(device=device, dtype=cells.log_probs_NSK.dtype)
        cells_NS, asked = (torch.from_numpy(each).to(device) for each in (cell_NS, asked_NS))
        return _Wanted(cell_NS=cells_NS, weight_NS=weights, asked_NS=asked, pulled_NS=weights > 0)

    def _image_weights(self, wanted: _Wanted, base_cells: _Cells) -> torch.Tensor:
        """1 for pictures that may stay as the base makes them, less for those of which a subject must or may change."""
        same_NS = base_cells.shown_NS & (wanted.cell_NS == base_cells.log_probs_NSK.argmax(dim=2))
        changes_N = (wanted.asked_NS & ~(wanted.pulled_NS & same_NS)).any(dim=1)
        return 1.0 + (self.changed_image_weight - 1.0) * changes_N.float()


def _targets(
    attributes: Sequence[Attribute], target: TargetChoice, targets: Mapping[str, TargetChoice]
) -> list[Target]:
    """The targets of all attributes; ValueError for a key that names none."""
    by_name = {attribute.name: attribute for attribute in attributes}
    if not by_name:
        raise ValueError("attributes is empty: method align needs one whose shares are to change (method.attributes)")
    found: list[Target] = []
    named: set[str] = set()
    for key, choice in targets.items():
        members = list(by_name) if key == OF_ALL else key.split(JOINT)
        if unknown := [name for name in members if name not in by_name]:
            raise ValueError(f"method.targets: {unknown[0]!r} is none of the attributes {', '.join(by_name)}")
        one = by_name[members[0]] if len(members) == 1 else joint_attribute([by_name[name] for name in members])
        found += choice.targets(one)
        named |= set(members)
    for attribute in attributes:
        if attribute.name not in named:
            found += target.targets(attribute)
    return found


def _read(reader: LoadedDifferentiableReader, base: LoadedBase, latents_NCHW: torch.Tensor) -> Readings:
    """What a reader says of pictures, with gradients for their latents.

    In the precision of the VAE and the reader, whatever autocast asks for: SDXL's VAE overflows in half precision, and
    a reading is to be the one that the reader gives elsewhere.
    """
    import torch

    with torch.autocast(latents_NCHW.device.type, enabled=False):
        return reader.logits(base.decode_latents(latents_NCHW))


def _repeated(text: TextEmbedding, count: int) -> TextEmbedding:
    """Each caption ``count`` times in a row."""
    return TextEmbedding(
        hidden_BLD=text.hidden_BLD.repeat_interleave(count, dim=0),
        pooled_BD=None if text.pooled_BD is None else text.pooled_BD.repeat_interleave(count, dim=0),
    )


def _joined(first: TextEmbedding, second: TextEmbedding) -> TextEmbedding:
    import torch

    pooled = [text.pooled_BD for text in (first, second) if text.pooled_BD is not None]
    return TextEmbedding(
        hidden_BLD=torch.cat([first.hidden_BLD, second.hidden_BLD]), pooled_BD=torch.cat(pooled) if pooled else None
    )


def _divergence(base: Readings, adapted: Readings, names: Sequence[str]) -> torch.Tensor:
    """KL from what the reader says of the base's pictures: a mean over pictures and attributes; 0 if not shown."""
    import torch

    found = []
    for name in names:
        shown_NS = (base[name].shown_BS & adapted[name].shown_BS).float()
        before_NSK, after_NSK = (each[name].logits_BSK.log_softmax(dim=2) for each in (base, adapted))
        divergence_NS = (before_NSK.exp() * (before_NSK - after_NSK)).sum(dim=2)
        found.append(((divergence_NS * shown_NS).sum(dim=1) / shown_NS.sum(dim=1).clamp(min=1)).mean())
    return torch.stack(found).mean()
