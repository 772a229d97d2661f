"""Train one debiasing adapter on a curated set.

    python train/lora.py data=<folder that data_recipes/build.py wrote>
    accelerate launch --multi_gpu --num_processes 8 train/lora.py base=sd15 data=<folder>

The adapter is written to runs/<experiment>/<run_name>/adapter. The same command goes on where a killed one stopped.
"""

from __future__ import annotations

from pathlib import Path

import evenhand
from evenhand.adapters import AdapterCard, attach
from evenhand.compose import Config, program
from evenhand.data import read_examples
from evenhand.evaluation.overlap import write_captions
from evenhand.run import Run
from evenhand.trackers import open_tracker
from evenhand.training.batches import make_batches
from evenhand.training.fit import fit, start_accelerator, weights_dtype
from evenhand.training.state import latest_checkpoint


@program("train")
def main(config: Config) -> float:
    base_choice, lora, method = config.build("base"), config.build("lora"), config.build("method")
    settings, optim, tracker_choice = config.build("train"), config.build("optim"), config.build("tracker")
    seed, data = config.value("seed", int), Path(config.value("data", str))
    folder, cache_folder = Path(config.value("run_folder", str)), Path(config.value("cache_folder", str))
    run_name = config.value("run_name", str)
    config.ignore("experiment")
    config.refuse_unread()
    splits = ("train", "preserve") if method.uses_preserve else ("train",)
    examples = {split: read_examples(data, split) for split in splits}

    accelerator = start_accelerator(settings.mixed_precision)
    settings.check(uses_preserve=method.uses_preserve, num_processes=accelerator.num_processes)
    run = Run.open(
        folder,
        config=config.plain,
        seeds={"train": seed},
        inputs={"data": data},
        is_main=accelerator.is_main_process,
        device=str(accelerator.device),
        world_size=accelerator.num_processes,
    )
    base = base_choice.load(device=accelerator.device, dtype=weights_dtype(settings.mixed_precision))
    batches = make_batches(
        base, examples, data, settings=settings, cache_folder=cache_folder, seed=seed, accelerator=accelerator
    )
    adapter = attach(base, lora, seed=seed)
    resume = latest_checkpoint(folder / "checkpoints", config_sha256=run.config_sha256)
    after_step = 0 if resume is None else resume.step
    tracker = open_tracker(
        tracker_choice, folder, config=config.plain, after_step=after_step, is_main=accelerator.is_main_process
    )
    result = fit(
        base,
        adapter,
        method,
        batches,
        settings=settings,
        optim=optim,
        accelerator=accelerator,
        tracker=tracker,
        folder=folder / "checkpoints",
        config_sha256=run.config_sha256,
        resume=resume,
    )
    tracker.close()
    if not result.finished:
        raise SystemExit(f"stopped after step {result.step} of {settings.steps}: the same command goes on from there")
    if accelerator.is_main_process:
        card = AdapterCard(
            name=run_name,
            base=base.name,
            base_model=base_choice.model,
            method=method.name,
            steps=result.step,
            seed=seed,
            concepts=tuple(sorted({example.concept for example in examples["train"]})),
            data_sha256=run.provenance["inputs"]["data"]["sha256"],
            config_sha256=run.config_sha256,
            version=evenhand.__version__,
        )
        path = adapter.save(folder / "adapter", card)
        write_captions(path.parent, {split: [example.text for example in rows] for split, rows in examples.items()})
        run.finish()
        print(f"adapter: {path.parent}  loss: {result.loss:.6f}  steps: {result.step}")
    accelerator.end_training()
    return float(result.loss)


if __name__ == "__main__":
    main()
