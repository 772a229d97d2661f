"""Measure what an adapter changed: plan, check, generate both arms, read, score, report.

python evaluate/shift.py adapter=runs/<experiment>/<run>/adapter
python evaluate/shift.py arm=prompt_rewrite
"""

from __future__ import annotations

import sys

from evenhand.compose import Config, program

EXIT_GUARD_FAILED = 3


@program("evaluate")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.evaluation.scoring import curated_images, score_images
    from evenhand.generation.session import Request, Session

    request, scorer = config.construct(Request), config.build("scorer")
    batch_size = config.value("read_batch_size", int)
    trained_on = request.training_set(config.optional("training_set", str), scored=scorer is not None)
    training_images = None if trained_on.folder is None else curated_images(trained_on.folder)
    config.ignore("experiment", "run_name")
    config.refuse_unread()

    from evenhand.evaluation.folder import all_arms
    from evenhand.evaluation.reading import compare_unrelated, read_images
    from evenhand.report.render import HTML_FILE, write_report

    session = Session(request, {**config.plain, "training_set": trained_on.folder})
    plan, folder, device = session.plan, session.folder, session.device
    if session.is_main:
        print(*session.forecast(), f"training set: {trained_on.why}", sep="\n", file=sys.stderr)
    readers = {reader.name: reader.load(device=device) for reader in request.readers if session.is_main}

    def read(name: str, arms: tuple[str, ...], num_rounds: int | None) -> None:
        loaded = readers[name]
        read_images(plan, folder, loaded, reader_name=name, batch_size=batch_size, arms=arms, num_rounds=num_rounds)

    with session:
        for num_rounds in session.rounds():
            session.make(plan.arms, num_rounds)
            if session.is_main:
                read(request.reader.name, plan.arms, num_rounds)
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
