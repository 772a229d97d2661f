"""Plan an evaluation and generate its images in all arms; evaluate/read.py and evaluate/report.py go on from there.

python evaluate/generate.py adapter=runs/<experiment>/<run>/adapter
"""

from __future__ import annotations

import sys
from pathlib import Path

from evenhand.compose import Config, program


@program("evaluate")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.evaluation.folder import all_arms
    from evenhand.evaluation.overlap import training_captions
    from evenhand.evaluation.question import ask
    from evenhand.generation.arms import adapter_file
    from evenhand.generation.session import Request, Session

    adapter, captions = adapter_file(Path(config.value("adapter", str))), config.optional("training_captions", str)
    question = ask(
        config.build("evaluation"),
        attribute=config.build("attribute"),
        target=config.build("target"),
        suites=config.build("suite"),
        reader=config.build("reader"),
        tier=config.build("tier"),
        second_readers=tuple(config.build("second_readers").values()),
        joint_target=config.build("joint_target"),
        captions=training_captions(adapter, None if captions is None else Path(captions)),
    )
    request = Request(
        question=question,
        base=config.build("base"),
        sampling=config.build("sampling"),
        adapter=adapter,
        folder=Path(config.value("run_folder", str)),
        seed=config.value("seed", int),
        check_base=config.value("check_base", bool),
        sequential=config.value("sequential", bool),
        sequential_width=config.optional("sequential_width", float),
        device=config.value("device", str),
        num_threads=config.value("num_threads", int),
        num_processes=config.optional("num_processes", int),
        cache=config.value("cache", bool),
    )
    if request.sequential:
        raise ValueError("sequential=true needs a reading after each round: use evaluate/shift.py")
    config.ignore("experiment", "run_name", "read_batch_size", "scorer", "training_set")
    config.refuse_unread()

    session = Session(request, config.plain)
    if session.is_main:
        print(*session.forecast(), sep="\n", file=sys.stderr)
    arms = all_arms(session.plan)
    with session:
        session.make(arms)
    if session.is_main:
        session.finish()
        print(f"{session.folder}: images of {len(arms)} arms, {question.num_images} in each of the pair's")


if __name__ == "__main__":
    main()
