"""Plan an evaluation and generate its images in both arms; evaluate/read.py and evaluate/report.py go on from there.

python evaluate/generate.py adapter=runs/<experiment>/<run>/adapter
"""

from __future__ import annotations

import sys
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.run import NOT_RESULTS, Run

# The adapter counts by its content, and the device by its kind: both are in the plan.
NOT_IN_THE_IMAGES = (*NOT_RESULTS, "adapter", "device", "read_batch_size")


@program("evaluate")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.evaluation.question import ask, plan_evaluation
    from evenhand.generation import adapter_file, finish_images, generate_arms

    reader, base_choice, sampling = config.build("reader"), config.build("base"), config.build("sampling")
    question = ask(
        config.build("evaluation"),
        attribute=config.build("attribute"),
        target=config.build("target"),
        suites=config.build("suite"),
        reader=reader,
    )
    folder, adapter = Path(config.value("run_folder", str)), adapter_file(Path(config.value("adapter", str)))
    seed, check_base = config.value("seed", int), config.value("check_base", bool)
    device_name = config.value("device", str)
    config.ignore("experiment", "run_name", "read_batch_size")
    config.refuse_unread()

    import torch
    from accelerate import PartialState

    from evenhand.evaluation.plan import freeze_plan
    from evenhand.files import sha256_file

    state = PartialState(cpu=device_name == "cpu" or not torch.cuda.is_available())
    rank, num_ranks = state.process_index, state.num_processes
    run = Run.open(
        folder,
        config=config.plain,
        seeds={"evaluation": seed},
        inputs={"adapter": adapter},
        is_main=rank == 0,
        device=str(state.device),
        world_size=num_ranks,
        not_results=NOT_IN_THE_IMAGES,
    )
    dtype = getattr(torch, question.settings.dtype)
    base = base_choice.load(device=state.device, dtype=dtype)
    digest, device_type = sha256_file(adapter), state.device.type
    plan = plan_evaluation(question, base, sampling=sampling, adapter_sha256=digest, seed=seed, device=device_type)
    if rank == 0:
        freeze_plan(plan, folder)
        print(f"plan: {question.num_images} images for each arm, {len(plan.prompts)} prompts", file=sys.stderr)

    generate_arms(plan, folder, base, adapter, check_base=check_base, rank=rank, num_ranks=num_ranks)
    state.wait_for_everyone()
    if rank != 0:
        return
    images = finish_images(plan, folder)
    run.finish()
    print(f"{folder}: {len(images)} images in {len(plan.arms)} arms")


if __name__ == "__main__":
    main()
