"""Seeds: every random draw is a function of names, so that nothing depends on order, batch or number of processes."""

from __future__ import annotations

import hashlib

MAX_SEED = 2**63 - 1


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) from a root seed and the names of what it is for; equal on every machine and version."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & MAX_SEED
