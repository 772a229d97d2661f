"""Build a curated set: images with exact quotas and neutral captions, and the certificate that says so.

python data_recipes/build.py recipe=tinytown_self
"""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from evenhand.compose import Config, program
from evenhand.files import read_json, write_json_atomic, write_text_atomic
from evenhand.recipes.card import CARD, dataset_card
from evenhand.recipes.certificate import CERTIFICATE, certify
from evenhand.recipes.curated_set import CuratedRecipe, write_metadata
from evenhand.run import NOT_RESULTS, Run, finished_before

# No image depends on these: more attempts go on where fewer ended; what is used of the suite stands in the recipe.
NOT_IN_THE_IMAGES = (*NOT_RESULTS, "device", "suite", "recipe.max_attempts_factor")
EXIT_NOT_CERTIFIED = 3


@program("build")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    recipe: CuratedRecipe = config.build("recipe")
    folder = Path(config.value("run_folder", str))
    seed = config.value("seed", int)
    device_name = config.value("device", str)
    config.ignore("experiment", "run_name", "suite", "attribute", "target", "base", "sampling", "reader")
    config.refuse_unread()
    inputs = recipe.inputs
    if finished_before(folder, config=config.plain, inputs=inputs, not_results=NOT_IN_THE_IMAGES):
        return report(folder)

    import torch

    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run.open(
        folder,
        config=config.plain,
        seeds={"build": seed},
        inputs=inputs,
        device=device_name,
        not_results=NOT_IN_THE_IMAGES,
    )

    # What an earlier, killed call made is kept: the same command goes on where it stopped.
    images = recipe.build(folder, device=torch.device(device_name))
    rows = list(tqdm(images, total=recipe.num_images, desc="curated set", unit="image", file=sys.stderr))
    write_metadata(folder, rows)

    # The certificate is counted from the files, not from what we think we wrote.
    certificate = certify(folder, recipe.plan, recipe.origin)
    write_json_atomic(folder / CERTIFICATE, certificate)
    write_text_atomic(folder / CARD, dataset_card(certificate))
    run.finish()
    report(folder)


def report(folder: Path) -> None:
    certificate = read_json(folder / CERTIFICATE)
    print(
        f"{folder}: {certificate['num_images']} images to train on, {certificate['num_preserve']} to preserve, "
        f"{len(certificate['leaks'])} leaks, {len(certificate['duplicates'])} duplicates, "
        f"sha256 {certificate['sha256']}"
    )
    if not certificate["passed"]:
        print(f"not certified: see {folder / CERTIFICATE}", file=sys.stderr)
        raise SystemExit(EXIT_NOT_CERTIFIED)


if __name__ == "__main__":
    main()
