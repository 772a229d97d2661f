"""What a user gave to be measured against the base: an adapter, a stack of them, an edited UNet, or a baseline.

What the files say of their training goes into the plan as well: captions that were seen, readers that cannot judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenhand.adapters.file import WEIGHTS_NAME
from evenhand.evaluation.overlap import TrainingCaptions, training_captions
from evenhand.evaluation.training_set import TrainingSet, training_reader, training_set
from evenhand.files import sha256_json, sha256_path
from evenhand.generation.adapter_arm import AdapterArm
from evenhand.generation.edited_unet import EditedUnetArm, edited_unet_file
from evenhand.generation.second_arm import SecondArm
from evenhand.generation.stack import StackArm, Weighted, weighted

NOTHING_TRAINED = TrainingCaptions(by_split={"train": frozenset()}, source="none: nothing was trained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """``arm`` is what makes the second arm's images, ``files`` the weights that it reads, none for a baseline."""

    arm: SecondArm
    files: tuple[Path, ...]

    @property
    def inputs(self) -> dict[str, Path]:
        """The files by the names under which a run's provenance has them."""
        if len(self.files) == 1:
            return {"adapter": self.files[0]}
        return {f"adapter_{number}": file for number, file in enumerate(self.files, start=1)}

    def sha256(self, facts: Mapping[str, Any]) -> str:  # Any: JSON
        """What the plan tells this arm from others by: the weights, or where they don't say all, the arm's facts."""
        return sha256_json({"name": self.arm.name, **facts}) if facts else sha256_path(self.files[0])

    def training_reader(self, named: str | None, *, judge: str) -> str | None:
        """The reader that had a say in the weights, the judge if it is one of several."""
        found = [training_reader(file, named, reader=judge) for file in self.files] or [named]
        return judge if judge in found else next((name for name in found if name is not None), None)

    def training_captions(self, given: Path | None) -> TrainingCaptions | None:
        """What all of the weights were trained on; None where it is not known of all."""
        if given is not None:
            return training_captions(self.files[0] if self.files else Path(), given)
        if not self.files:
            return NOTHING_TRAINED
        found = [training_captions(file) for file in self.files]
        known = [captions for captions in found if captions is not None]
        if len(known) < len(found):
            return None
        return known[0] if len(known) == 1 else _union(known)

    def training_set(self, named: str | None, *, scored: bool) -> TrainingSet:
        """The images that must not come back as copies, for one adapter; others have none, or more than one set."""
        if len(self.files) == 1 or named not in (None, "auto"):
            return training_set(self.files[0] if self.files else Path(), named, scored=scored)
        why = (
            "nothing was trained" if not self.files else "these are several adapters (training_set=<folder> names one)"
        )
        return TrainingSet(folder=None, why=f"none: {why}; copies of training images are not looked for")


def no_baseline() -> None:
    """The choice of an adapter, or adapters, as what is measured."""
    return


def _union(captions: Sequence[TrainingCaptions]) -> TrainingCaptions:
    splits = dict.fromkeys(split for each in captions for split in each.by_split)
    return TrainingCaptions(
        by_split={
            split: frozenset().union(*(each.by_split.get(split, frozenset()) for each in captions)) for split in splits
        },
        source="; ".join(dict.fromkeys(each.source for each in captions)),
    )


def given_arm(
    *,
    arm: SecondArm | None,
    adapter: Path | None,
    adapters: Sequence[Mapping[str, Any]],  # Any: YAML
    check_base: bool,
) -> Given:
    """The one of an arm, an adapter and a stack that was given; ValueError for none or several, or missing files."""
    named = {
        "adapter": adapter is not None,
        "adapters": bool(adapters),
        f"arm={'' if arm is None else arm.name}": arm is not None,
    }
    several = [name for name, is_given in named.items() if is_given]
    if len(several) > 1:
        raise ValueError(f"{' and '.join(several)} are both given, but a run measures one of them")
    if arm is not None:
        return Given(arm=arm, files=())
    if adapters:
        stack: tuple[Weighted, ...] = weighted(adapters)
        return Given(
            arm=StackArm(adapters=stack, check_base=check_base), files=tuple(adapter_file(each.path) for each in stack)
        )
    if adapter is None:
        raise ValueError(
            "adapter has no value; set adapter=... (or adapters=[{path: ..., weight: ...}, ...], or arm=...)"
        )
    edited = edited_unet_file(adapter)
    if edited is not None:
        return Given(arm=EditedUnetArm(path=edited, check_base=check_base), files=(edited,))
    file = adapter_file(adapter)
    return Given(arm=AdapterArm(path=file, check_base=check_base), files=(file,))


def adapter_file(path: Path) -> Path:
    """The weights of an adapter folder or file; ValueError when there are none."""
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"adapter not found: {file} does not exist (adapter=<the folder that training wrote>)")
    return file
