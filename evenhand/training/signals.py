"""What a step must learn without making the host wait: a wish to stop, and a loss that is no longer finite."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# SIGTERM is how schedulers and spot machines announce the end; Slurm sends USR1 or USR2 before it where asked
# (--signal=USR1@120). Windows has no USR signals.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Stop:
    """Whether a stop signal has come. A second one changes nothing, also in the middle of a save."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.raised = True


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """A stop signal only raises a flag inside. Workers whose launcher dies get one too (``processes.end_with_parent``).

    The training then saves at the end of its step and leaves. torchrun and accelerate launch pass SIGTERM on and kill
    their workers 30 seconds later; where a step and a save may take longer, set TORCH_ELASTIC_SHUTDOWN_TIMEOUT to the
    seconds they need.
    """
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The facts of a step on their way to the host: how many processes were told to stop (share), loss, norm."""

    step: int
    facts_3: torch.Tensor
    event: torch.cuda.Event | None
    own_loss: torch.Tensor
    files: tuple[str, ...]


class Watch:
    """Reads stop flag, mean loss and gradient norm of each step; the same ones on every process, so all act alike.

    With a gradient scaler (``scaled``) a norm that is not finite is part of its search for a scale.
    An accelerator runs behind the host. There, the facts of a step are read while it works on the next one, so that it
    never runs dry; ``flush`` reads what is on its way, before a checkpoint. On CPU they are read at once.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self._late = device.type == "cuda"
        self._scaled = scaled
        self._waiting: _Seen | None = None

    def see(
        self,
        step: int,
        stop_and_loss_2: torch.Tensor,
        norm: torch.Tensor,
        *,
        own_loss: torch.Tensor,
        files: tuple[str, ...],
    ) -> bool:
        """Take in a step, counted from 1; gives whether to stop. ValueError when loss or norm was not finite."""
        import torch

        facts_3 = torch.cat([stop_and_loss_2, (torch.zeros_like(norm) if self._scaled else norm).view(1)])
        before, self._waiting = self._waiting, _sent(step, facts_3, own_loss, files)
        if not self._late:
            return self.flush()
        return before is not None and _read(before)

    def flush(self) -> bool:
        """As ``see``, for what has not been read yet."""
        waiting, self._waiting = self._waiting, None
        return waiting is not None and _read(waiting)


def _sent(step: int, facts_3: torch.Tensor, own_loss: torch.Tensor, files: tuple[str, ...]) -> _Seen:
    import torch

    event = None
    if facts_3.device.type == "cuda":
        on_host = torch.empty(facts_3.shape, pin_memory=True)
        on_host.copy_(facts_3, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types there
        event.record()
        facts_3 = on_host
    return _Seen(step=step, facts_3=facts_3, event=event, own_loss=own_loss, files=files)


def _read(seen: _Seen) -> bool:
    if seen.event is not None:
        seen.event.synchronize()
    stop, loss, norm = seen.facts_3.tolist()
    if math.isfinite(loss) and math.isfinite(norm):
        return bool(stop > 0)
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    if math.isfinite(float(seen.own_loss)) and not math.isfinite(loss):
        where = "in another process"
    else:
        where = f"with the images {', '.join(seen.files)}"
    raise ValueError(
        f"{what} at step {seen.step} {where}: lower optim.learning_rate, or look for what is wrong with them; "
        "the last checkpoint was written before"
    )
