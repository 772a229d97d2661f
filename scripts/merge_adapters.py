"""Add up several adapters of one base, exactly, in one file.

python scripts/merge_adapters.py 'adapters=[runs/default/<a>/adapter, runs/default/<b>/adapter]' 'weights=[1, 0.5]' to=c
"""

from __future__ import annotations

from pathlib import Path

import evenhand
from evenhand.adapters.merge import merge_folders
from evenhand.compose import Config, program
from evenhand.evaluation.overlap import merge_captions


@program("merge")
def main(config: Config) -> None:
    folders = [Path(folder) for folder in config.build("adapters")]
    weights = [float(weight) for weight in config.build("weights")]
    to, name, how = Path(config.value("to", str)), config.value("name", str), config.value("how", str)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    if to.exists():
        raise ValueError(f"to={to} exists already: choose another name")
    path = merge_folders(folders, weights, to, name=name, version=evenhand.__version__, how=how)
    merge_captions(folders, to)
    print(f"merged: {path.parent}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
