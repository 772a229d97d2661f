"""Check that this installation's measurements are honest, against truths that are known.

python evaluate/selftest.py [full=true] [check=aa | checks=[aa,inject]]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from evenhand.compose import Config, program

EXIT_CHECK_FAILED = 3


@program("selftest")
def main(config: Config) -> None:
    full, seed = config.value("full", bool), config.value("seed", int)
    check, names = config.optional("check", str), list(config.build("checks"))
    num_processes = config.value("num_processes", int)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()

    # Read when NumPy, torch, tqdm and the hub are imported: processes share the cores, and nothing is downloaded.
    for name in ("OMP_NUM_THREADS", "TQDM_DISABLE", "HF_HUB_OFFLINE"):
        os.environ.setdefault(name, "1")
    from evenhand.honesty.bench import open_bench
    from evenhand.honesty.checks import chosen, lines, run_checks, summary, write_selftest
    from evenhand.honesty.outcome import FAIL

    wanted = chosen([*names, *([check] if check is not None else [])])
    done = []
    with (
        tempfile.TemporaryDirectory(prefix="evenhand-selftest-") as folder,
        open_bench(full=full, seed=seed, num_processes=num_processes, work_folder=Path(folder)) as bench,
    ):
        for checked in run_checks(wanted, bench):
            print("\n".join(lines(checked)), flush=True)
            done.append(checked)
        if wanted == chosen([]):
            write_selftest(done, bench)
    print(summary(done))
    if any(checked.outcome.status == FAIL for checked in done):
        raise SystemExit(EXIT_CHECK_FAILED)


if __name__ == "__main__":
    main()
