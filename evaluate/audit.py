"""Draw pairs of an evaluation folder for people to label blindly: one HTML file, and a key that they must not see.

python evaluate/audit.py run=<folder> pairs=100
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.evaluation.plan import load_plan
from evenhand.report.audit import write_sheet


@program("audit")
def main(config: Config) -> None:
    folder, num_pairs, seed = Path(config.value("run", str)), config.value("pairs", int), config.value("seed", int)
    attribute, suite = config.optional("attribute", str), config.optional("suite", str)
    config.ignore("run_folder", "experiment", "run_name")
    config.refuse_unread()
    plan = load_plan(folder)
    sheet = write_sheet(
        plan,
        folder,
        attribute=plan.primary.attribute if attribute is None else attribute,
        suite=plan.primary.suite if suite is None else suite,
        num_pairs=num_pairs,
        seed=seed,
    )
    print(f"{sheet.path}: {sheet.num_pictures} pictures; give this file to the rater, and keep {sheet.key_path.name}")
    print(f"then: python evaluate/labels.py run={folder} labels=labels.csv rater=<name>")


if __name__ == "__main__":
    main()
