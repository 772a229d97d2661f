"""Write the table of the trainings in a folder again, from their run folders alone: Markdown, JSON and a picture.

python scripts/sweep_table.py runs=runs/<experiment>
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.sweeps.table import MARKDOWN_FILE, write_table


@program("sweep_table")
def main(config: Config) -> None:
    folder = Path(config.value("runs", str))
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    write_table(folder)
    print((folder / MARKDOWN_FILE).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
