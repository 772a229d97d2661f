"""Analyse plan.json and readings.jsonl, whoever made them, and write results.json, report.html and report.md.

python evaluate/report.py run=<folder>
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.plan import PLAN_FILE
from evenhand.report.render import HTML_FILE, write_report
from evenhand.run import NOT_RESULTS, Run

PROVENANCE = "provenance.report.json"
EXIT_GUARD_FAILED = 3


@program("report")
def main(config: Config) -> None:
    folder = Path(config.value("run", str))
    config.ignore("run_folder", "experiment", "run_name")
    config.refuse_unread()
    (folder / PROVENANCE).unlink(missing_ok=True)  # a report may be made again of other readings: it says of which
    run = Run.open(
        folder,
        config=config.plain,
        seeds={},
        inputs={"plan": folder / PLAN_FILE, "readings": folder / READINGS_FILE},
        not_results=(*NOT_RESULTS, "run"),
        provenance_name=PROVENANCE,
    )
    results = write_report(folder)
    run.finish()
    print(f"{results.answer}\n{folder / HTML_FILE}")
    if results.failed_guards:
        raise SystemExit(EXIT_GUARD_FAILED)


if __name__ == "__main__":
    main()
