"""Build a curated set: images with exact quotas and neutral captions, and the certificate that says so.

    python data_recipes/build.py recipe=tinytown_self
    python data_recipes/build.py recipe=tinytown_self launch.num_processes=2
    accelerate launch --multi_gpu --num_processes 8 data_recipes/build.py experiment=sd_build

The same command goes on where a killed one stopped, and returns at once where one was finished.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from evenhand.compose import Config, program
from evenhand.files import read_json, write_json_atomic, write_text_atomic
from evenhand.launch import Launch
from evenhand.processes import folder_lock
from evenhand.ranks import Worker, join_group
from evenhand.recipes.card import CARD, dataset_card
from evenhand.recipes.certificate import CERTIFICATE, certify
from evenhand.recipes.curated_set import CuratedRecipe, write_metadata
from evenhand.recipes.pictures import full_disk_said
from evenhand.run import NOT_RESULTS, RunPlan, plan_run
from evenhand.training.signals import stop_signals

# No image depends on these: more attempts go on where fewer ended; what is used of the suite stands in the recipe.
NOT_IN_THE_IMAGES = (*NOT_RESULTS, "device", "suite", "recipe.max_attempts_factor")
EXIT_NOT_CERTIFIED = 3


@program("build")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded and anything written.
    recipe: CuratedRecipe = config.build("recipe")
    launch: Launch = config.build("launch")
    folder, seed = Path(config.value("run_folder", str)), config.value("seed", int)
    device, num_threads = config.value("device", str), config.value("num_threads", int)
    config.ignore("experiment", "run_name", "suite", "attribute", "target", "concepts", "wordings", "language")
    config.ignore("base", "sampling", "reader", "second_readers", "source", "limits")  # parts of the recipe
    config.refuse_unread()
    drives = launch.drives(is_sweep=config.job.is_sweep, measures=False)
    plan = plan_run(
        folder, config=config.plain, seeds={"build": seed}, inputs=recipe.inputs, not_results=NOT_IN_THE_IMAGES
    )
    if not plan.finished():
        recipe.check(folder)
        if drives:
            launch.run(config.job, folder, run_name=config.value("run_name", str))
        else:
            worker = join_group(device, num_threads=num_threads)
            launch.check_world(worker.ranks.num_ranks)
            build(recipe, plan, worker)
    if launch.speaks():
        report(folder)


def build(recipe: CuratedRecipe, plan: RunPlan, worker: Worker) -> None:
    """What each process does; what an earlier, killed call made is kept."""
    ranks, is_main = worker.ranks, worker.ranks.rank == 0
    with folder_lock(plan.folder) if is_main else nullcontext(), full_disk_said(plan.folder), stop_signals() as stop:
        ranks.wait()  # nobody writes before the first one holds the lock
        run = plan.open(is_main=is_main, device=worker.device.type, world_size=ranks.num_ranks)
        rows = []
        total, what = math.ceil(recipe.num_images / ranks.num_ranks), f"curated set, process 1 of {ranks.num_ranks}"
        with tqdm(total=total, desc=what, unit="image", file=sys.stderr, disable=not (is_main and total)) as bar:
            for row in recipe.build(plan.folder, device=worker.device, ranks=ranks):
                if stop.raised:
                    raise SystemExit("stopped: the same command goes on from there")
                rows.append(row)
                bar.update()
        rows = ranks.gather(rows)
        if is_main:
            write_metadata(plan.folder, rows)
            # The certificate is counted from the files, not from what we think we wrote.
            certificate = certify(plan.folder, recipe.plan, recipe.origin, recipe.account(plan.folder))
            write_json_atomic(plan.folder / CERTIFICATE, certificate)
            write_text_atomic(plan.folder / CARD, dataset_card(certificate))
            run.finish()
        ranks.wait()


def report(folder: Path) -> None:
    certificate = read_json(folder / CERTIFICATE)
    print(
        f"{folder}: {certificate['num_images']} {certificate['holds']} to train on, "
        f"{certificate['num_preserve']} to preserve, {len(certificate['leaks'])} leaks, "
        f"{len(certificate['duplicates'])} duplicates, sha256 {certificate['sha256']}"
    )
    if not certificate["passed"]:
        print(f"not certified: see {folder / CERTIFICATE}", file=sys.stderr)
        raise SystemExit(EXIT_NOT_CERTIFIED)


if __name__ == "__main__":
    main()
