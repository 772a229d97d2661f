"""A curated set made ready for a model hub."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from evenhand.hygiene.people import check_consent
from evenhand.publish import Upload, check_names, upload_of
from evenhand.recipes.certificate import read_certificate
from evenhand.recipes.formats import export_set

# More files in one folder of a repository slow the hub down: https://huggingface.co/docs/hub/storage-limits
MOST_FILES = 10_000
PLACE = re.compile(r"(^|[\s:=(])(/(?!/)|~/|[A-Za-z]:\\|file:)")


def prepare_set(folder: Path, to: Path, *, repo: str, form: str, shard_mb: float) -> Upload:
    """Write into the new folder ``to`` what is to be published of a set: its parts, certificate and card, nothing else.

    ValueError for what must not be published: a repository's name that is none, a set that did not pass or is not as
    its certificate says, pictures of people without a word on their consent, a source that only this machine knows.
    """
    certificate = read_certificate(folder)
    check_names(repo=repo, license=certificate["license"])
    if not certificate["passed"]:
        raise ValueError(f"{folder} did not pass its own certificate and is not published (see certificate.json)")
    people = certificate["people"]
    check_consent(people["depicts"], people["consent"], source=certificate["source"])
    for source in (certificate["source"], *certificate["sources"]):
        if PLACE.search(source):
            raise ValueError(
                f"{folder}: the source {source!r} names a place on one machine, which would stand in every row; build "
                "the set from a source with a name"
            )
    if form == "imagefolder":
        parts = Counter(PurePosixPath(name).parent for name in certificate["files"])
        if parts and (most := parts.most_common(1)[0])[1] > MOST_FILES:
            raise ValueError(
                f"{folder}: {most[0]} holds {most[1]} files, a hub takes {MOST_FILES} in one; use format=parquet"
            )
    export_set(folder, to, form=form, shard_mb=shard_mb)
    return upload_of(to, repo=repo, kind="dataset")
