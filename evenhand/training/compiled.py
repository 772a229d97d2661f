"""torch.compile for the UNet, whose compiler may fail: it is PyTorch's private matter how, so it is told apart here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "torch._functorch")
MOST_LETTERS = 300


def compile_unet(unet: torch.nn.Module) -> None:
    """Have the UNet compiled when it is first called."""
    compiled: Any = unet  # Any: diffusers has no types
    compiled.compile()


@contextmanager
def compiler_errors_in_a_line() -> Iterator[None]:
    """Inside, a failure of the compiler is a ValueError of one line; PyTorch's own error has hundreds of them."""
    try:
        yield
    except RuntimeError as error:
        if not _is_of_the_compiler(error):
            raise
        raise ValueError(
            f"torch.compile failed ({_reason(error)}): set train.compile=false, which learns the same; on a CPU it "
            "needs a C++ compiler with OpenMP, on a GPU Triton (EVENHAND_TRACEBACK=1 shows all that it said)"
        ) from error


def _is_of_the_compiler(error: RuntimeError) -> bool:
    return any(kind.__module__.startswith(COMPILER_MODULES) for kind in type(error).__mro__)


def _reason(error: RuntimeError) -> str:
    """The line that says what went wrong: a compiler's own, else the first one behind the name of the backend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if " error: " in line] or [line for line in lines if not line.endswith("raised:")]
    return (told or lines or [type(error).__name__])[0][:MOST_LETTERS]
