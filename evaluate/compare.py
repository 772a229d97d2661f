"""Compare two adapters, or one with a baseline, evaluated with the same plan: what differs, and where they are tied.

python evaluate/compare.py run_a=runs/shift/<one> run_b=runs/shift/<other>
"""

from __future__ import annotations

from pathlib import Path

from evenhand.analysis.comparison import compare
from evenhand.compose import Config, program
from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.plan import PLAN_FILE
from evenhand.files import write_json_atomic, write_text_atomic
from evenhand.report.comparison_page import comparison_md
from evenhand.run import NOT_RESULTS, Run

COMPARISON_FILE, MARKDOWN_FILE = "comparison.json", "comparison.md"


@program("compare")
def main(config: Config) -> None:
    folder_a, folder_b = Path(config.value("run_a", str)), Path(config.value("run_b", str))
    given = config.optional("run_folder", str)
    config.ignore("experiment", "run_name")
    config.refuse_unread()
    folder = Path("runs/compare") / f"{folder_a.name}-{folder_b.name}" if given is None else Path(given)

    comparison = compare(folder_a, folder_b)
    runs = {"run_a": folder_a, "run_b": folder_b}
    run = Run.open(
        folder,
        config=config.plain,
        seeds={},
        inputs={f"{name}.{file}": place / file for name, place in runs.items() for file in (PLAN_FILE, READINGS_FILE)},
        not_results=NOT_RESULTS,
    )
    write_json_atomic(folder / COMPARISON_FILE, comparison)
    write_text_atomic(folder / MARKDOWN_FILE, comparison_md(comparison))
    run.finish()
    print(f"{comparison.answer}\n{folder / MARKDOWN_FILE}")


if __name__ == "__main__":
    main()
