"""A hundred thousand readings are analysed and rendered in seconds, without a gigabyte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.folders import plan_row, prompt_row, write_folder

MOST_SECONDS, MOST_MIB = 20.0, 1024.0
PROGRAM = """
import resource, sys, time
from pathlib import Path
from evenhand.report.render import write_report
write_report(Path(sys.argv[1]))
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_a_hundred_thousand_readings_take_seconds_and_less_than_a_gigabyte(tmp_path: Path) -> None:
    """40 prompts, 417 seeds, two arms, three attributes with a joint of 36 cells; processor time, in a new process."""
    attributes = {"presentation": 2, "skin": 3, "age": 6}
    prompts = [prompt_row("heldout" if index < 30 else "train", f"c{index}") for index in range(40)]
    rng, rows = np.random.default_rng(0), []
    for row in prompts:
        for arm in ("base", "adapted"):
            for seed in range(417):
                for name, count in attributes.items():
                    value = f"v{int(rng.integers(count))}"
                    line = {"prompt_id": row["id"], "seed": seed, "arm": arm, "subject": 0, "reader": "oracle"}
                    rows.append({**line, "attribute": name, "value": value, "probs": None, "unread": None})
    plan = plan_row(
        prompts,
        attributes=[{"name": name, "values": [f"v{n}" for n in range(count)]} for name, count in attributes.items()],
        targets=[
            {"attribute": name, "concept": "*", "shares": [1 / count] * count} for name, count in attributes.items()
        ],
        joints=[list(attributes)],
    )
    assert len(rows) >= 100_000
    folder = write_folder(tmp_path / "run", plan, rows)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    seconds, mebibytes = (float(part) for part in done.stdout.split()[-2:])
    assert seconds < MOST_SECONDS
    assert mebibytes < MOST_MIB
    assert len(json.loads((folder / "results.json").read_text())["estimates"]) > 5000
