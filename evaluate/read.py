"""Read the images of an evaluation folder, whatever made them.

python evaluate/read.py run=<folder>
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.run import NOT_RESULTS, Run

PROVENANCE = "provenance.read.json"


@program("read")
def main(config: Config) -> None:
    from evenhand.evaluation.folder import READINGS_FILE
    from evenhand.evaluation.plan import load_plan
    from evenhand.evaluation.reading import compare_unrelated, read_images

    reader = config.build("reader")
    folder, device_name = Path(config.value("run", str)), config.value("device", str)
    batch_size = config.value("read_batch_size", int)
    config.ignore("run_folder", "experiment", "run_name")
    config.refuse_unread()
    plan = load_plan(folder)
    if plan.reader != reader.name:
        raise ValueError(f"{folder} is planned for reader {plan.reader}, got reader={reader.name}; plan another run")

    import torch

    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run.open(
        folder,
        config=config.plain,
        seeds={},
        inputs={},
        device=device_name,
        not_results=(*NOT_RESULTS, "run", "device", "read_batch_size"),
        provenance_name=PROVENANCE,
    )
    loaded = reader.load(device=torch.device(device_name))
    num_images = read_images(plan, folder, loaded, reader_name=reader.name, batch_size=batch_size)
    compare_unrelated(plan, folder)
    run.finish()
    print(f"{folder / READINGS_FILE}: {num_images} images read now")


if __name__ == "__main__":
    main()
