"""Put a curated set with its certificate on a model hub. Says what it would upload; does it with dry_run=false only.

python scripts/publish_set.py set=runs/curated/<run_name> repo=<you>/<name>
python scripts/publish_set.py set=... repo=... format=webdataset private=false dry_run=false
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.publish import listing, send
from evenhand.recipes.publishing import prepare_set


@program("publish_set")
def main(config: Config) -> None:
    folder, repo, form = (config.value(key, str) for key in ("set", "repo", "format"))
    shard_mb = config.value("shard_mb", float)
    private, dry_run = config.value("private", bool), config.value("dry_run", bool)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    with tempfile.TemporaryDirectory() as place:
        upload = prepare_set(Path(folder), Path(place) / "set", repo=repo, form=form, shard_mb=shard_mb)
        print(f"{'would upload' if dry_run else 'uploading'} to {repo} ({'private' if private else 'public'}):")
        print("\n".join(listing(upload)))
        if dry_run:
            print((upload.folder / "README.md").read_text(encoding="utf-8"))
            print("nothing was sent (dry_run=false sends it)")
        else:
            print(f"published: {send(upload, private=private)}")


if __name__ == "__main__":
    main()
