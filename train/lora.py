"""Train one debiasing adapter on a curated set.

    python train/lora.py data=<folder that data_recipes/build.py wrote>
    python train/lora.py launch.num_processes=8 base=sd15 data=<folder>
    python train/lora.py -m launch.num_processes=8 optim.learning_rate=1e-4,3e-4 data=<folder>

The adapter is written to runs/<experiment>/<run_name>/adapter. The same command goes on where a killed one stopped, and
returns at once where one was finished. How processes, machines and sweeps are started: docs/scaling.md.
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.data.rows import read_split
from evenhand.launch import check_measure, measure
from evenhand.run import plan_run
from evenhand.sweeps.table import write_tables
from evenhand.training.outcome import Outcome, check_objective, objective_of
from evenhand.training.parts import ADAPTER_FOLDER, Training


@program("train", after_sweep=write_tables)
def main(config: Config) -> float | None:
    # Everything that is wrong in the config or the data ends here, before a model is loaded and anything written.
    training = Training(
        name=config.value("run_name", str),
        base=config.build("base"),
        lora=config.build("lora"),
        method=config.build("method"),
        timesteps=config.build("timesteps"),
        augmentation=config.build("augmentation"),
        settings=config.build("train"),
        optim=config.build("optim"),
        images=config.build("images"),
        calibration=config.build("calibration"),
        validation=config.build("validation"),
        tracker=config.build("tracker"),
        launch=config.build("launch"),
        seed=config.value("seed", int),
        cache_folder=Path(config.value("cache_folder", str)),
    )
    folder, data = Path(config.value("run_folder", str)), Path(config.value("data", str))
    objective, measured = config.value("objective", str), config.build("measure")
    config.ignore("experiment")
    config.refuse_unread()
    measures, launch = measured is not None, training.launch
    check_objective(objective, validates=training.scores, measures=measures)
    check_measure(measured)
    drives = launch.drives(is_sweep=config.job.is_sweep, measures=measures)
    inputs = {"data": data, **training.inputs}
    plan = plan_run(folder, config=config.plain, seeds={"train": training.seed}, inputs=inputs)

    if not (plan.finished() and (folder / ADAPTER_FOLDER).is_dir()):
        training.check_place(folder)
        parts = ("train", "preserve") if training.method.uses_preserve else ("train",)
        splits = {part: read_split(data, part) for part in parts}
        training.check(splits)
        if drives:
            launch.run(config.job, folder, run_name=training.name)
        else:
            training.run(splits, plan)
    if drives and measures:
        measure(config.job, folder, measured, grace_seconds=launch.grace_seconds)
    if not launch.speaks():
        return None
    outcome = Outcome.read(folder)
    print(f"adapter: {folder / ADAPTER_FOLDER}  loss: {outcome.loss:.6f}  steps: {outcome.steps}")
    return objective_of(folder, objective)


if __name__ == "__main__":
    main()
