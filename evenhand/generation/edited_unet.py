"""A UNet that another tool edited, as the second arm: what closed-form edits and full fine-tuning leave behind.

Its weights replace those of the base that bear the same names, all or some of them; at scale s the UNet has
``W + s (W' - W)``. The text encoder and all else stay the base's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenhand.evaluation.plan import Plan
from evenhand.evaluation.question import ADAPTED_ARM
from evenhand.generation.second_arm import Asked, Maker, plain_maker
from evenhand.interfaces import LoadedBase

if TYPE_CHECKING:
    import torch

STEM = "diffusion_pytorch_model"
UNET_FOLDER, PREFIX = "unet", "unet."
PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def edited_unet_file(path: Path) -> Path | None:
    """The folder or file with an edited UNet's weights; None for what is no such thing, such as an adapter.

    ValueError for weights in a pickle, which would run whatever code is in them.
    """
    if path.is_dir():
        folders = [folder for folder in (path / UNET_FOLDER, path) if list(folder.glob(f"{STEM}*.safetensors"))]
        return folders[0] if folders else None
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which runs what is in it; save its tensors with safetensors.torch.save_file"
        )
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
    except SafetensorError:
        return None  # whoever reads it as an adapter says what is wrong with it
    return None if not names or any("lora" in name for name in names) else path


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedUnetArm:
    """``path`` is what ``edited_unet_file`` gave. Such weights never say which base they were made from.

    So ``check_base`` refuses them: two bases of one architecture have the same names and shapes.
    """

    path: Path
    check_base: bool
    name: str = ADAPTED_ARM

    def __post_init__(self) -> None:
        if self.check_base:
            raise ValueError(
                f"{self.path} is a UNet, which does not say what base it was edited from; check_base=false measures it "
                "against the base here"
            )

    def facts(self, asked: Asked) -> dict[str, Any]:  # Any: JSON
        """Nothing: the sha256 of the weights, which every plan has, says it all."""
        return {}

    @contextmanager
    def applied(self, base: LoadedBase, plan: Plan, *, scale: float) -> Iterator[Maker]:
        """The base with the edited weights; afterwards its own, bit for bit."""
        import torch

        edited, own = self._read(base), dict(base.unet.state_dict())
        before = {name: own[name].clone() for name in edited}
        try:
            with torch.no_grad():
                for name, value in edited.items():
                    own[name].copy_(blend(before[name], value.to(own[name]), scale))
            yield plain_maker(base, plan)
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    own[name].copy_(value)

    def _read(self, base: LoadedBase) -> dict[str, torch.Tensor]:
        """The weights by the names in the base's UNet; ValueError for one that is not there or has another shape."""
        from safetensors.torch import load_file

        own = base.unet.state_dict()
        found: dict[str, torch.Tensor] = {}
        for file in _files(self.path):
            for key, value in load_file(file).items():
                name = key.removeprefix(PREFIX)
                if name not in own or own[name].shape != value.shape:
                    what = f"shape {tuple(value.shape)}" if name in own else "no weight there"
                    raise ValueError(
                        f"{file} does not fit base {base.name}: {key} has {what}"
                        + (f" instead of {tuple(own[name].shape)}" if name in own else "")
                    )
                found[name] = value
        return found


def blend(own: torch.Tensor, edited: torch.Tensor, scale: float) -> torch.Tensor:
    """The way from one weight to the other; its ends are exactly these."""
    if scale in (0.0, 1.0):
        return edited if scale else own
    return own + scale * (edited - own)


def _files(path: Path) -> list[Path]:
    """The files of the weights: one, its shards, or where there is nothing else those of a variant such as fp16."""
    if path.is_file():
        return [path]
    plain = path / f"{STEM}.safetensors"
    return [plain] if plain.is_file() else sorted(path.glob(f"{STEM}*.safetensors"))
