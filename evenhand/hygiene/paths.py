"""File names that others wrote: an entry of a set's metadata may name a file of the set, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from evenhand.hygiene.images import Refused

DRIVE_OR_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # C:, http:, file:


def inside(folder: Path, name: object) -> Path:
    """The real path of a file that an entry names relative to ``folder``.

    Refused when it names none, or one that lies outside of the folder: by itself, or by a link on the way. Only the
    entry's own text and its place in the folder are looked at; nothing is opened.
    """
    if not isinstance(name, str) or not name.strip():
        raise Refused("no file name" if name is None or name == "" else f"file name is no text ({name!r:.40})")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise Refused("control character in the file name")
    if "\\" in name:
        raise Refused("backslash in the file name")
    if name.startswith("/") or DRIVE_OR_ADDRESS.match(name):
        raise Refused("absolute file name")
    if ".." in PurePosixPath(name).parts:
        raise Refused("file name leaves the folder (..)")
    try:
        root = folder.resolve(strict=True)
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise Refused("link leaves the folder")
        if not path.is_file():
            raise Refused("not a file")
    except FileNotFoundError as error:
        raise Refused("no such file") from error
    except (OSError, RuntimeError) as error:  # Python 3.12 and older: RuntimeError for a loop of links
        raise Refused(f"unreadable file name ({getattr(error, 'strerror', None) or 'a loop of links'})") from error
    return path
