"""Files of the encoding cache: each whole or not there, known by what went into it, and checked when read.

A set's shards lie in one folder, whose name holds the hash of all that decides their content. Processes share the work
without talking: each writes its own shards and waits for the others' files, so that no collective's time limit applies.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.files import atomic_path, read_json, sha256_json, write_json_atomic

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

FORMAT = "2"  # to be raised when the content of a shard changes its meaning
INPUTS_NAME = "inputs.json"
SUFFIX = ".safetensors"
KEY_LETTERS = 16
POLL_SECONDS = 0.2
LOG_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFolder:
    """Where the shards of one set lie, encoded from ``inputs``: names of what went in, and their hashes or values."""

    path: Path
    inputs: Mapping[str, str]

    @classmethod
    def of(cls, cache_folder: Path, name: str, inputs: Mapping[str, str]) -> ShardFolder:
        """The folder of a set with these inputs; nothing is written yet."""
        known = {"format": FORMAT, **inputs}
        return cls(path=cache_folder / f"{name}-{sha256_json(known)[:KEY_LETTERS]}", inputs=known)

    def what_changed(self) -> str:
        """What differs from the encoding of a set of the same name that has most in common with this one.

        Nothing differs where a session was killed before its first file, or somebody has removed the files.
        """
        name = self.path.name[: -KEY_LETTERS - 1]
        differences = []
        for other in sorted(self.path.parent.glob(f"{name}-{'?' * KEY_LETTERS}/{INPUTS_NAME}")):
            known = read_json(other)
            differences.append([part for part, value in self.inputs.items() if known.get(part) != value])
        if not differences:
            return f"no cache in {self.path.parent}"
        fewest = min(differences, key=lambda parts: len(parts))
        return f"changed: {', '.join(fewest)}" if fewest else f"begun before, but {self.path} holds no file yet"

    def open(self) -> None:
        """Make the folder, and note in it what its shards are encoded from; ValueError when it cannot be written."""
        try:
            if not (self.path / INPUTS_NAME).is_file():
                write_json_atomic(self.path / INPUTS_NAME, self.inputs)
        except OSError as error:
            raise ValueError(self._cannot_write(error)) from error

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write one shard, whole or not at all; ValueError when the disk is full."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        stored = {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}
        try:
            with atomic_path(self.path / f"{name}{SUFFIX}") as temporary:
                save_file(stored, temporary, metadata={"sha256": _digest(stored), "of": self._of(name)})
        except (OSError, SafetensorError) as error:
            raise ValueError(self._cannot_write(error)) from error

    def read(self, name: str) -> dict[str, torch.Tensor]:
        """A shard's tensors, mapped into memory: what is not touched again takes none.

        FileNotFoundError when it is not there, DamagedShardError when it is not what was written.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / f"{name}{SUFFIX}"
        try:
            with safe_open(path, framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
        except SafetensorError as error:
            raise DamagedShardError(f"{path} is damaged: {error}") from error
        if metadata.get("of") != self._of(name):
            raise DamagedShardError(f"{path} is another file than its name says")
        if metadata.get("sha256") != _digest(tensors):
            raise DamagedShardError(f"{path} is damaged: its content is not what was written")
        return tensors

    def _cannot_write(self, error: Exception) -> str:
        return f"the cache folder {self.path} cannot be written to: {error} (set cache_folder to another, or make room)"

    def _of(self, name: str) -> str:
        return f"{name} {sha256_json(self.inputs)}"


class DamagedShardError(Exception):
    """A shard that has to be encoded again."""


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 in hex of names, shapes, kinds and bytes."""
    import torch

    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fill(
    folder: ShardFolder,
    names: Sequence[str],
    encode: Callable[[str], Mapping[str, torch.Tensor]],
    *,
    what: str,
    rank: int,
    num_ranks: int,
) -> dict[str, dict[str, torch.Tensor]]:
    """All shards by name: those that are there are read, and ``encode`` makes the rest, each on one rank.

    ``what`` says in the log what is encoded.
    """
    from tqdm import tqdm

    found: dict[str, dict[str, torch.Tensor]] = {}
    reasons: list[str | None] = []
    for name in names:
        try:
            found[name] = folder.read(name)
        except FileNotFoundError:
            reasons.append(None)
        except DamagedShardError as error:
            reasons.append(str(error))
    if not reasons:
        return found
    if rank == 0:
        _say_why(folder, what, reasons, num_shards=len(names))
    folder.open()
    mine = [name for index, name in enumerate(names) if index % num_ranks == rank and name not in found]
    for name in tqdm(mine, desc="encode", unit="file", disable=rank != 0 or not mine):
        try:
            found[name] = folder.read(name)  # another run may have been here in the meantime
        except (FileNotFoundError, DamagedShardError):
            folder.write(name, encode(name))
            found[name] = folder.read(name)
    _wait(folder, found, {name: index % num_ranks for index, name in enumerate(names) if name not in found})
    return found


def _say_why(folder: ShardFolder, what: str, reasons: Sequence[str | None], *, num_shards: int) -> None:
    for reason in reasons:
        if reason is not None:
            log.info("%s: it is encoded again", reason)
    absent = sum(reason is None for reason in reasons)
    if absent == num_shards:
        log.info("encoding %s once (%s)", what, folder.what_changed())
    elif absent:
        log.info("encoding %s: going on with the last %d of %d files", what, absent, num_shards)


def _wait(folder: ShardFolder, found: dict[str, dict[str, torch.Tensor]], owners: Mapping[str, int]) -> None:
    """Read the shards of other ranks when they come, and say once a minute what is still waited for.

    A rank that died never writes its own; to end the others is its launcher's business.
    """
    waiting = dict(owners)
    seen: dict[str, tuple[int, int]] = {}
    logged = time.monotonic()
    while waiting:
        for name in list(waiting):
            path = folder.path / f"{name}{SUFFIX}"
            if not path.is_file():
                continue
            state = path.stat()
            if seen.get(name) == (state.st_ino, state.st_mtime_ns):
                continue  # as damaged as when it was last looked at
            seen[name] = (state.st_ino, state.st_mtime_ns)
            try:
                found[name] = folder.read(name)
                del waiting[name]
            except DamagedShardError:
                continue
        if waiting and time.monotonic() - logged > LOG_SECONDS:
            logged = time.monotonic()
            name, owner = next(iter(waiting.items()))
            log.warning(
                "waiting for %d files in %s, first %s of process %d (cache_folder must be one that all processes see)",
                len(waiting),
                folder.path,
                name,
                owner,
            )
        if waiting:
            time.sleep(POLL_SECONDS)
