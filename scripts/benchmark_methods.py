"""Train and measure every method and every baseline on the same cases, and write the page that compares them.

    python scripts/benchmark_methods.py experiment=benchmark
    python scripts/benchmark_methods.py experiment=benchmark only=[market,occupations/distill-s0]
    python scripts/benchmark_methods.py cases=[market] methods=[curated,distill] arms=[none] seeds=[0]

Each step is a process of its own; the same command goes on where it was stopped, and with results_folder=... on another
machine as well. Exit code 1: something that was to be run did not finish.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from evenhand.compose import Config, program
from evenhand.processes import folder_lock

EXIT_UNFINISHED = 1


@program("benchmark_methods")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before anything is started.
    from evenhand.method_benchmark.plan import Benchmark
    from evenhand.method_benchmark.running import check_steps, results, run_all

    benchmark = config.construct(Benchmark)
    page, page_only = config.optional("page", str), config.value("page_only", bool)
    config.ignore("experiment", "run_name")
    config.refuse_unread()
    if not page_only:
        check_steps(benchmark)

    from evenhand.method_benchmark.page import MARKDOWN_FILE, Content, headline, write_page
    from evenhand.method_benchmark.standings import comparable, standing

    # A page may be written while another process trains: it only reads what is finished.
    with nullcontext() if page_only else folder_lock(benchmark.run_folder):
        if not page_only:
            run_all(benchmark)
    found, missing = results(benchmark)
    standings = []
    for case in benchmark.cases:
        kept, left = comparable([one for one in found if one.run.case == case], level=benchmark.level)
        missing |= left
        standings.append(standing(case, kept, bars=benchmark.bars, level=benchmark.level))
    content = Content(
        benchmark=benchmark,
        standings=tuple(standings),
        missing=missing,
        commits=Counter(one.commit for one in found if one.run.label not in missing),
        command=shlex.join(["python", "scripts/benchmark_methods.py", *filter(_of_the_whole, config.job.overrides)]),
    )
    place = benchmark.run_folder / MARKDOWN_FILE if page is None else Path(page)
    write_page(content, place)
    for one in standings:
        print(f"{one.case}: {headline(one) if one.tables else 'nothing was measured'}")
    print(place)
    print(*(f"not finished: {label}: {why}" for label, why in missing.items()), sep="\n", file=sys.stderr)
    if not page_only and any(run.label in missing for run in benchmark.chosen):
        raise SystemExit(EXIT_UNFINISHED)


def _of_the_whole(override: str) -> bool:
    """Whether an override is more than a choice of what this call runs: the page is of all."""
    return not override.startswith(("only=", "page_only="))


if __name__ == "__main__":
    main()
