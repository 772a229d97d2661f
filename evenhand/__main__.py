"""``evenhand train/lora steps=100``: run a program from a checkout or an installed wheel, in any folder."""

from __future__ import annotations

import runpy
import sys

from evenhand.paths import program_names, program_path

USAGE = "usage: evenhand <program> [key=value ...]"


def main() -> None:
    """Run the program that the first argument names, with the rest of the command line; without one, list them."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write("\n".join([USAGE, "", "programs:", *(f"  {name}" for name in program_names()), ""]))
        return
    name, *rest = arguments
    try:
        path = program_path(name.removesuffix(".py"))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    sys.argv = [str(path), *rest]
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
