"""Read the images of an evaluation folder, whatever made them; a further reader's lines join those of the others.

python evaluate/read.py run=<folder>
python evaluate/read.py run=<folder> reader=tinytown_a
"""

from __future__ import annotations

from pathlib import Path

from evenhand.compose import Config, program
from evenhand.run import NOT_RESULTS, Run

PROVENANCE = "provenance.read.{reader}.json"


@program("read")
def main(config: Config) -> None:
    from evenhand.evaluation.folder import READINGS_FILE, rounds_made
    from evenhand.evaluation.plan import load_plan
    from evenhand.evaluation.reading import compare_unrelated, read_images

    reader = config.build("reader")
    folder, device_name = Path(config.value("run", str)), config.value("device", str)
    batch_size, num_threads = config.value("read_batch_size", int), config.value("num_threads", int)
    config.ignore("run_folder", "experiment", "run_name")
    config.refuse_unread()
    plan = load_plan(folder)
    for name, values in plan.attributes.items():
        if set(reader.attributes.get(name, values)) != set(values):
            raise ValueError(
                f"{folder} is planned for {name} with values {list(values)}, but reader {reader.name} reads "
                f"{list(reader.attributes[name])}; choose another reader"
            )

    import torch

    torch.set_num_threads(num_threads)
    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run.open(
        folder,
        config=config.plain,
        seeds={},
        inputs={},
        device=device_name,
        not_results=(*NOT_RESULTS, "run", "device", "read_batch_size", "num_threads"),
        provenance_name=PROVENANCE.format(reader=reader.name),
    )
    loaded, num_rounds = reader.load(device=torch.device(device_name)), rounds_made(plan, folder)
    num_images = read_images(
        plan, folder, loaded, reader_name=reader.name, batch_size=batch_size, num_rounds=num_rounds
    )
    compare_unrelated(plan, folder, num_rounds=num_rounds)
    run.finish()
    print(f"{folder / READINGS_FILE}: {num_images} images read now by {reader.name}")


if __name__ == "__main__":
    main()
