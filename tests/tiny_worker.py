"""One process of a tiny training: ``python -m tests.tiny_worker BASE DATA CACHE RUN_FOLDER SETTINGS_JSON``.

The same command goes on where a killed one stopped. At the end the main process writes ``adapter.safetensors`` and
``metrics.json`` (of its session) into the run folder; it exits with STOPPED after a stop signal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from evenhand.processes import end_with_parent, is_worker
from tests.tiny_training import Remember, Stage

STOPPED = 3


def main() -> None:
    if is_worker():
        end_with_parent()  # as every program does
    base, data, cache, folder = (Path(argument) for argument in sys.argv[1:5])
    stage = Stage(base, data, cache, **json.loads(sys.argv[5]))
    tracker = Remember()
    result = stage.run(folder, tracker, resume=True)
    if stage.accelerator.is_main_process:
        if result.finished:
            save_file(stage.adapter.tensors(), folder / "adapter.safetensors")
        (folder / "metrics.json").write_text(json.dumps(tracker.lines))
    stage.accelerator.end_training()
    sys.exit(0 if result.finished else STOPPED)


if __name__ == "__main__":
    main()
