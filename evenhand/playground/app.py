"""The playground in a browser, with gradio; what its widgets call is ``answers``, which needs none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evenhand.playground.page import pairs_html, problem_html
from evenhand.playground.pairs import Pair, Playground

NUM_IMAGES_MOST = 12
INSTALL = "the playground needs gradio, which is not installed: pip install 'evenhand[playground]'"
WEIGHT_STEP = 0.05
# The fonts of the machine: gradio's own themes may ask Google for theirs.
FONTS = ["system-ui", "sans-serif"]
MONO_FONTS = ["ui-monospace", "monospace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSettings:
    """What the page shows first, where its sliders end, and where it is served (``port`` None: the first free one)."""

    prompt: str
    seed: int
    num_images: int
    max_weight: float
    host: str
    port: int | None

    def __post_init__(self) -> None:
        if not 1 <= self.num_images <= NUM_IMAGES_MOST:
            raise ValueError(f"num_images must be between 1 and {NUM_IMAGES_MOST}, got {self.num_images}")
        if not 0 < self.max_weight < float("inf"):
            raise ValueError(f"max_weight must be > 0, got {self.max_weight}")


def gradio() -> Any:  # Any: gradio is optional
    """The library, told to stay on this machine; ValueError with the pip line where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as library
    except ImportError as error:
        raise ValueError(INSTALL) from error
    return library


def answers(
    playground: Playground, settings: PageSettings, prompt: str, seed: str, num_images: float, *weights: float
) -> Iterator[str]:
    """The page's result as HTML, again with each pair that is made. What cannot be asked is said in it."""
    try:
        seeds = _seeds(seed, num_images)
        told = [_weight(weight, settings) for weight in weights]
        if not prompt.strip():
            raise ValueError("the prompt is empty: say what to make")
        made: list[Pair] = []
        for pair in playground.pairs(prompt, seeds, told):
            made.append(pair)
            yield pairs_html(
                made,
                base_name=playground.base_name,
                weights=dict(zip(playground.adapter_names, told, strict=True)),
                num_asked=len(seeds),
            )
    except ValueError as error:
        yield problem_html(str(error))


def _seeds(seed: str, num_images: float) -> list[int]:
    """As many seeds as images, from the one that is given on. It is text: a browser's numbers end at 2^53."""
    if not re.fullmatch(r"[0-9]+", seed.strip(), flags=re.ASCII):
        raise ValueError(f"the seed must be a whole number from 0, got {seed!r}")
    if not (float(num_images).is_integer() and 1 <= num_images <= NUM_IMAGES_MOST):
        raise ValueError(f"the number of pairs must be between 1 and {NUM_IMAGES_MOST}, got {num_images}")
    return [int(seed) + number for number in range(int(num_images))]


def _weight(weight: float, settings: PageSettings) -> float:
    if not 0 <= weight <= settings.max_weight:
        raise ValueError(f"a weight must be between 0 and {settings.max_weight:g}, got {weight}")
    return float(weight)


def make_page(playground: Playground, settings: PageSettings) -> Any:  # Any: gradio.Blocks
    """The page: what is asked on top, the pairs below; it answers when a slider is let go."""
    gr = gradio()

    def respond(prompt: str, seed: str, num_images: float, *weights: float) -> Iterator[str]:
        yield from answers(playground, settings, prompt, seed, num_images, *weights)

    with gr.Blocks(title="evenhand playground", analytics_enabled=False) as page:
        gr.Markdown("# evenhand playground")
        prompt = gr.Textbox(settings.prompt, label="Prompt", max_lines=3)
        with gr.Row():
            seed = gr.Textbox(str(settings.seed), label="Seed of the first pair", max_lines=1, min_width=140)
            num_images = gr.Slider(1, NUM_IMAGES_MOST, settings.num_images, step=1, label="Pairs", min_width=140)
        sliders = [
            gr.Slider(0, settings.max_weight, min(1.0, settings.max_weight), step=WEIGHT_STEP, label=name)
            for name in playground.adapter_names
        ]
        button = gr.Button("Make", variant="primary")
        result = gr.HTML()
        gr.on(
            [button.click, prompt.submit, seed.submit, num_images.release, *(slider.release for slider in sliders)],
            respond,
            inputs=[prompt, seed, num_images, *sliders],
            outputs=result,
            api_name="pairs",
            trigger_mode="always_last",  # while an answer is made, only the newest question waits
            concurrency_limit=1,
        )
    return page


def serve(page: Any, settings: PageSettings, *, wait: bool = True) -> str:  # Any: gradio.Blocks
    """Serve the page on this machine, until the program is ended; without ``wait`` its address comes back at once."""
    gr = gradio()
    theme = gr.themes.Base(font=FONTS, font_mono=MONO_FONTS)
    _, address, _ = page.launch(
        server_name=settings.host,
        server_port=settings.port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        prevent_thread_lock=not wait,
        quiet=not wait,
    )
    return str(address)
