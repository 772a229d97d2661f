"""The cache folder: what is costly to make, the same for every run of this machine, and safe to delete."""

from __future__ import annotations

import os
from pathlib import Path

from evenhand.files import write_text_atomic

CACHE_VARIABLE = "EVENHAND_CACHE"
README = """\
evenhand's cache. Nothing here is needed: what is missing is made again. What is old or too large may go at any time:

    rm -r base_arms      images of unmodified bases, a folder for each batch, for the evaluations of all adapters
    rm selftest.json     what the last self-test of this installation found

`du -sh base_arms` tells its size. The environment variable EVENHAND_CACHE puts the cache elsewhere.
"""


def cache_folder() -> Path:
    """Where the cache lies: ``$EVENHAND_CACHE``, else ``~/.cache/evenhand``; it need not exist."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "evenhand"


def open_cache() -> Path:
    """The cache folder, made with its README when it is not there; ValueError when it cannot be written to."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "README").is_file():
            write_text_atomic(folder / "README", README)
    except OSError as error:
        raise ValueError(
            f"the cache folder {folder} cannot be written to ({error.strerror}); "
            f"set {CACHE_VARIABLE} to another folder, or cache=false"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"the cache folder {folder} is read-only; set {CACHE_VARIABLE} to another, or cache=false")
    return folder
