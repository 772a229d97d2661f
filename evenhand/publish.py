"""A folder that is put on a model hub: what its repository may be called, what would be sent, and sending it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evenhand.files import sha256_file

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9]([\w.-]{0,94}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Which files would go to which repository: names relative to the folder, sizes in bytes and sha256, in order."""

    repo: str
    folder: Path
    files: tuple[tuple[str, int, str], ...]
    kind: Literal["model", "dataset"]


def check_names(*, repo: str, license: str) -> None:
    """Raise ValueError for a repository's name that is none, and for a licence that is not named."""
    if not REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise ValueError(f"repo must be <user or organisation>/<name>, got {repo!r}")
    if not license.strip():
        raise ValueError("license must be named: one of https://hf.co/docs/hub/repositories-licenses, or other")


def upload_of(folder: Path, *, repo: str, kind: Literal["model", "dataset"]) -> Upload:
    """Everything in a folder, to be sent."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Upload(
        repo=repo,
        folder=folder,
        files=tuple((file.relative_to(folder).as_posix(), file.stat().st_size, sha256_file(file)) for file in files),
        kind=kind,
    )


def listing(upload: Upload) -> Iterator[str]:
    """One line a file: its size, the first figures of its sha256, its name."""
    for name, num_bytes, sha256 in upload.files:
        yield f"  {num_bytes:>12,} bytes  {sha256[:12]}  {name}"


def send(upload: Upload, *, private: bool) -> str:
    """Make the repository if it is not there and put the files there in one commit; gives the commit's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(upload.repo, private=private, exist_ok=True, repo_type=upload.kind)
        commit = api.upload_folder(
            repo_id=upload.repo,
            repo_type=upload.kind,
            folder_path=upload.folder,
            commit_message="Add adapter" if upload.kind == "model" else "Add curated set",
            allow_patterns=[name for name, _, _ in upload.files],
        )
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise ValueError(f"{upload.repo} was not uploaded: {str(error).splitlines()[0]} (hf auth login)") from error
    return str(commit.commit_url)
