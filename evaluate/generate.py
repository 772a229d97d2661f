"""Plan an evaluation and generate its images in all arms; evaluate/read.py and evaluate/report.py go on from there.

python evaluate/generate.py adapter=runs/<experiment>/<run>/adapter
"""

from __future__ import annotations

import sys

from evenhand.compose import Config, program


@program("evaluate")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.evaluation.folder import all_arms, planned_images
    from evenhand.generation.session import Request, Session

    request = config.construct(Request)
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
        num_images = len(planned_images(session.plan, session.plan.arms[0]))
        print(f"{session.folder}: images of {len(arms)} arms, {num_images} in each of the pair's")


if __name__ == "__main__":
    main()
