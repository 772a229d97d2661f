"""Count a set's certificate again from its files: an image folder, Parquet or WebDataset, ours or downloaded.

python data_recipes/verify.py set=runs/curated/<run_name>
"""

from __future__ import annotations

import sys
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.recipes.verification import NOT_COUNTED, verify

EXIT_NOT_CONFIRMED = 3


@program("verify")
def main(config: Config) -> None:
    folder = Path(config.value("set", str))
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    found = verify(folder)
    print(f"{folder} ({found.form})")
    for finding in found.findings:
        print(f"  {'same   ' if finding.same else 'DIFFERS'}  {finding.name}: {finding.text}")
    print(f"  not counted: {NOT_COUNTED}; labels are the set's own")
    if not found.confirmed:
        print(f"not confirmed: {folder} is not what its certificate says", file=sys.stderr)
    elif not found.passed:
        print("confirmed, but the certificate says itself that the set did not pass", file=sys.stderr)
    else:
        print("confirmed: the certificate is true of these files")
    if not (found.confirmed and found.passed):
        raise SystemExit(EXIT_NOT_CONFIRMED)


if __name__ == "__main__":
    main()
