"""Add labels to the readings of an evaluation folder: those of a blinded audit, or a table that another tool made.

python evaluate/labels.py run=<folder> labels=labels.csv rater=ada
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.evaluation.folder import READINGS_FILE
from evenhand.evaluation.plan import load_plan
from evenhand.report.audit import add_labels
from evenhand.run import NOT_RESULTS, Run

PROVENANCE = "provenance.labels.{rater}.json"


@program("labels")
def main(config: Config) -> None:
    folder, labels = Path(config.value("run", str)), Path(config.value("labels", str))
    rater = config.value("rater", str)
    config.ignore("run_folder", "experiment", "run_name")
    config.refuse_unread()
    num_labels = add_labels(load_plan(folder), folder, labels, rater=rater)
    provenance = PROVENANCE.format(rater=rater)
    (folder / provenance).unlink(missing_ok=True)  # a rater may hand in more labels: it says which file these are of
    run = Run.open(
        folder,
        config=config.plain,
        seeds={},
        inputs={"labels": labels},
        not_results=(*NOT_RESULTS, "run", "labels"),
        provenance_name=provenance,
    )
    run.finish()
    print(f"{folder / READINGS_FILE}: {num_labels} labels of {rater}; now: python evaluate/report.py run={folder}")


if __name__ == "__main__":
    main()
