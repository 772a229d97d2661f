"""Write a curated set in another form with the same certificate: Parquet for the hub, WebDataset, an image folder.

python scripts/export_set.py set=runs/curated/<run_name> to=<new folder> format=parquet
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.recipes.formats import export_set


@program("export_set")
def main(config: Config) -> None:
    folder, to = Path(config.value("set", str)), Path(config.value("to", str))
    form, shard_mb = config.value("format", str), config.value("shard_mb", float)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    done = export_set(folder, to, form=form, shard_mb=shard_mb)
    print(f"exported: {to} ({form})  {done.num_files} files, {done.num_bytes:,} bytes, as the certificate says")


if __name__ == "__main__":
    main()
