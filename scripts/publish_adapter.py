"""Put an adapter with its model card on a model hub. Says what it would upload; does it with dry_run=false only.

python scripts/publish_adapter.py adapter=runs/default/<run_name>/adapter repo=<you>/<name> license=openrail++
python scripts/publish_adapter.py adapter=... repo=... license=... evaluation=runs/shift/<name> dry_run=false
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from evenhand.adapters.publish import prepare
from evenhand.compose import Config, program
from evenhand.publish import listing, send


@program("publish")
def main(config: Config) -> None:
    adapter, repo, license = (config.value(key, str) for key in ("adapter", "repo", "license"))
    evaluation, private = config.optional("evaluation", str), config.value("private", bool)
    with_kohya, dry_run = config.value("with_kohya", bool), config.value("dry_run", bool)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    with tempfile.TemporaryDirectory() as folder:
        upload = prepare(
            Path(adapter),
            Path(folder),
            repo=repo,
            license=license,
            evaluation=None if evaluation is None else Path(evaluation),
            with_kohya=with_kohya,
        )
        print(f"{'would upload' if dry_run else 'uploading'} to {repo} ({'private' if private else 'public'}):")
        print("\n".join(listing(upload)))
        if dry_run:
            print((upload.folder / "README.md").read_text(encoding="utf-8"))
            print("nothing was sent (dry_run=false sends it)")
        else:
            print(f"published: {send(upload, private=private)}")


if __name__ == "__main__":
    main()
