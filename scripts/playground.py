"""Try a prompt with and without adapters, side by side from the same noise, in a browser on this machine.

python scripts/playground.py 'adapters=[runs/<experiment>/<run>/adapter]'
"""

from __future__ import annotations

from evenhand.compose import Config, program


@program("playground")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    from evenhand.playground.app import PageSettings, gradio, make_page, serve
    from evenhand.playground.pairs import Choices

    choices, settings = config.construct(Choices), config.construct(PageSettings)
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    gradio()

    serve(make_page(choices.load(), settings), settings)


if __name__ == "__main__":
    main()
