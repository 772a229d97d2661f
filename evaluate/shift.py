"""Measure what an adapter changed: plan, check, generate both arms, read, score, report.

python evaluate/shift.py adapter=runs/<experiment>/<run>/adapter
"""

from __future__ import annotations

import sys
from pathlib import Path

from evenhand.compose import Config, program

EXIT_GUARD_FAILED = 3


@program("evaluate")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.evaluation.overlap import training_captions
    from evenhand.evaluation.question import ask
    from evenhand.evaluation.scoring import curated_images, score_images
    from evenhand.generation.arms import adapter_file
    from evenhand.generation.session import Request, Session

    reader, second_readers = config.build("reader"), tuple(config.build("second_readers").values())
    adapter, captions = adapter_file(Path(config.value("adapter", str))), config.optional("training_captions", str)
    question = ask(
        config.build("evaluation"),
        attribute=config.build("attribute"),
        target=config.build("target"),
        suites=config.build("suite"),
        reader=reader,
        tier=config.build("tier"),
        second_readers=second_readers,
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
    scorer, batch_size = config.build("scorer"), config.value("read_batch_size", int)
    training_set = config.optional("training_set", str)
    training_images = None if training_set is None else curated_images(Path(training_set))
    config.ignore("experiment", "run_name")
    config.refuse_unread()

    from evenhand.evaluation.folder import all_arms
    from evenhand.evaluation.reading import compare_unrelated, read_images
    from evenhand.report.render import HTML_FILE, write_report

    session = Session(request, config.plain)
    plan, folder, device = session.plan, session.folder, session.device
    if session.is_main:
        print(*session.forecast(), sep="\n", file=sys.stderr)
    readers = {choice.name: choice.load(device=device) for choice in (reader, *second_readers) if session.is_main}

    def read(name: str, arms: tuple[str, ...], num_rounds: int | None) -> None:
        loaded = readers[name]
        read_images(plan, folder, loaded, reader_name=name, batch_size=batch_size, arms=arms, num_rounds=num_rounds)

    with session:
        for num_rounds in session.rounds():
            session.make(plan.arms, num_rounds)
            if session.is_main:
                read(reader.name, plan.arms, num_rounds)
        session.make(tuple(plan.dose_arms), num_rounds)
    if not session.is_main:
        return
    for name in readers:
        read(name, all_arms(plan), num_rounds)
    compare_unrelated(plan, folder, num_rounds=num_rounds)
    if scorer is not None:
        loaded = scorer.load(device=device)
        score_images(
            plan, folder, loaded, scorer_name=scorer.name, batch_size=batch_size, training_images=training_images
        )
    results = write_report(folder)
    session.finish()
    print(f"{results.answer}\n{folder / HTML_FILE}")
    if results.failed_guards:
        raise SystemExit(EXIT_GUARD_FAILED)


if __name__ == "__main__":
    main()
