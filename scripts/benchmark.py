"""Measure what a training step costs beside the least that it could cost, and how fast the rest is.

    python scripts/benchmark.py                                  every part but the full-size ones, some minutes
    python scripts/benchmark.py parts=[operations,training]      some of them
    python scripts/benchmark.py parts=[full_sd15,full_sdxl]      training steps at full size: 24 GB of memory
    python scripts/benchmark.py +training.train.mixed_precision=bf16 sizes.pairs=100   on a GPU

On a machine that does nothing else. Prints lines and writes <run_folder>/benchmark.json.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.files import write_json_atomic


@program("benchmark")
def main(config: Config) -> None:
    base, sampling, reader = config.build("base"), config.build("sampling"), config.build("reader")
    sizes, parts, training = config.build("sizes"), config.build("parts"), config.build("training")
    seed, folder = config.value("seed", int), Path(config.value("run_folder", str))
    config.ignore("experiment", "run_name")
    config.refuse_unread()

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's library is imported: nothing is downloaded
    from evenhand.benchmark.lines import machine_line, part_lines
    from evenhand.benchmark.machine import machine_facts
    from evenhand.benchmark.parts import Bench, check_parts
    from evenhand.benchmark.settings import overrides_of

    check_parts(parts)
    bench = Bench(base=base, sampling=sampling, reader=reader, sizes=sizes, training=overrides_of(training), seed=seed)
    facts, figures = machine_facts(bench.accelerator.device), {}
    print(machine_line(facts), flush=True)
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="evenhand-benchmark-") as part_folder:
            figures[part] = bench.run(part, Path(part_folder))
        print("\n".join(part_lines(part, figures[part])), flush=True)
        write_json_atomic(folder / "benchmark.json", {"machine": facts, "config": config.plain, "figures": figures})
    print(f"written: {folder / 'benchmark.json'}")


if __name__ == "__main__":
    main()
