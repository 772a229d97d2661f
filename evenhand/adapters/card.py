"""What an adapter was made from, and the model card that says so.

Format of the card's YAML head: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evenhand.files import read_json
from evenhand.paths import PACKAGED
from evenhand.records import Example

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MOST_PROMPTS = 3
# What is known of an adapter when it is saved, beside the fields of AdapterCard.
SAVED_KEYS = (
    "base_fingerprint",
    "zero_terminal_snr",
    "rank",
    "alpha",
    "variant",
    "targets",
    "text_encoder",
    "rank_pattern",
    "alpha_pattern",
    "init",
    "num_modules",
    "num_parameters",
    "weights_sha256",
)
Facts = Mapping[str, Any]  # Any: the values of card.json


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """What an adapter was made from, for its header, ``card.json`` and model card; no time, so equal runs are equal.

    ``base_license`` is that of the base's weights, ``prompts`` are a few captions that it was trained on.
    ``training_readers`` had a say in the weights, as one that chose the best checkpoint: none of them can judge them.
    """

    name: str
    base: str
    base_model: str
    base_license: str
    method: str
    steps: int
    seed: int
    concepts: tuple[str, ...]
    prompts: tuple[str, ...]
    data_sha256: str
    config_sha256: str
    training_readers: tuple[str, ...]
    version: str


def read_card(folder: Path) -> dict[str, Any]:  # Any: JSON
    """What ``card.json`` of an adapter folder holds; ValueError for one that lacks something a model card says."""
    path = folder / "card.json"
    facts: dict[str, Any] = read_json(path)  # Any: JSON
    known = [field.name for field in fields(AdapterCard)]
    if missing := [key for key in (*known, *SAVED_KEYS) if key not in facts]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: an earlier version wrote it (add what is true by hand)")
    return facts


def adapter_name(path: Path) -> str:
    """What the card beside an adapter's folder or file calls it; without a card, the folder's or file's name."""
    card = (path if path.is_dir() else path.parent) / "card.json"
    named = read_json(card).get("name") if card.is_file() else None
    return str(named) if named else path.stem if path.is_file() else path.name


def public_model(model: str) -> str:
    """A base's name without the place of a folder on this machine, which is nobody's business and differs elsewhere."""
    return model if is_public(model) else Path(model).name


def is_public(model: str) -> bool:
    """Whether a base's name means the same on every machine: a packaged model or a hub id."""
    return model.startswith(PACKAGED) or (HUB_ID.fullmatch(model) is not None and not Path(model).exists())


def first_captions(examples: Sequence[Example]) -> tuple[str, ...]:
    """A caption of each of the first few concepts, to show what to ask for."""
    captions = {example.concept: example.text for example in reversed(examples) if example.text}
    ordered = dict.fromkeys(example.concept for example in examples if example.concept in captions)
    return tuple(captions[concept] for concept in list(ordered)[:MOST_PROMPTS])


def model_card(facts: Facts, *, license: str | None = None, measured: Facts | None = None) -> str:
    """The README.md that goes with the weights to a model hub.

    ``facts`` is what ``card.json`` holds, ``license`` the adapter's own, ``measured`` an evaluation's card snippet.
    """
    import yaml

    head = yaml.safe_dump(_head(facts, license, measured), sort_keys=False, allow_unicode=True, width=100)
    body = "\n\n".join(
        [
            f"# {facts['name']}",
            _what(facts),
            "## Use\n\n" + _use(facts),
            "## What it is for, and what not\n\n" + _limits(facts, measured),
            "## Measured\n\n" + _measured(measured),
            "## Training\n\n" + _training(facts),
            "## Licence\n\n" + _license(facts, license),
        ]
    )
    return f"---\n{head}---\n\n{body}\n"


def _head(facts: Facts, license: str | None, measured: Facts | None) -> dict[str, Any]:  # Any: YAML
    head: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}  # Any: YAML
    if license is not None:
        head["license"] = license
    if HUB_ID.fullmatch(facts["base_model"]):
        head |= {"base_model": facts["base_model"], "base_model_relation": "adapter"}
    head["tags"] = ["evenhand", "lora", "diffusers", "text-to-image", "stable-diffusion", "debiasing"]
    if facts["prompts"]:
        head["widget"] = [{"text": prompt} for prompt in facts["prompts"]]
    if measured is not None:
        head["model-index"] = [{**each, "name": facts["name"]} for each in measured["model-index"]]
    return head


def _what(facts: Facts) -> str:
    if sources := facts.get("merged_from"):
        names = ", ".join(f"{source['name']} (weight {source['weight']:g})" for source in sources)
        return (
            f"The weighted sum of {len(sources)} debiasing adapters for `{facts['base']}` (`{facts['base_model']}`), "
            f"exactly: {names}. A LoRA on {facts['num_modules']} modules ({facts['num_parameters']:,} parameters), "
            f"made with evenhand {facts['version']}. What the sum does was not measured by measuring its parts."
        )
    where = "the UNet" if facts["text_encoder"] == "none" else "the UNet and the text encoder"
    return (
        f"A debiasing adapter for `{facts['base']}` (`{facts['base_model']}`): a {_kind(facts)} on "
        f"{facts['num_modules']} modules of {where} ({facts['num_parameters']:,} parameters), trained with evenhand "
        f"{facts['version']} by the method `{facts['method']}`{_steps(facts)}. The base model itself is "
        f"unchanged: {_off(facts)}."
    )


def _steps(facts: Facts) -> str:
    return f" for {facts['steps']} steps" if facts["steps"] else ", without steps"


def _kind(facts: Facts) -> str:
    return {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}[facts["variant"]] + f" of rank {facts['rank']}"


def _off(facts: Facts) -> str:
    if facts["variant"] == "dora":
        return "with the adapter unloaded its images come out as before (a DoRA at scale 0 is not the base)"
    return "at scale 0 its images come out bit for bit"


def _use(facts: Facts) -> str:
    model, extra = f'"{facts["base_model"]}"', ""
    if facts["base_model"].startswith(PACKAGED):
        model, extra = f"model_path({model})", "from evenhand.paths import model_path\n"
    scheduler = ""
    if facts["zero_terminal_snr"]:
        extra = "from diffusers import DDIMScheduler\n" + extra
        scheduler = (
            "# it was trained on a schedule that ends in noise alone, and must be sampled with it\n"
            "pipeline.scheduler = DDIMScheduler.from_config(\n"
            '    pipeline.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"\n)\n'
        )
    prompt = facts["prompts"][0] if facts["prompts"] else "a portrait of a mechanic"
    return f"""```python
import torch
from diffusers import DiffusionPipeline
{extra}
pipeline = DiffusionPipeline.from_pretrained({model})
{scheduler}pipeline.load_lora_weights("<this folder>")
image = pipeline({prompt!r}, generator=torch.Generator().manual_seed(0)).images[0]
```

For ComfyUI and A1111 write it in their layout: `python scripts/export_adapter.py adapter=<this folder> to=<file>`."""


def _limits(facts: Facts, measured: Facts | None) -> str:
    concepts = ", ".join(facts["concepts"]) or "none named"
    lines = [
        f"It was trained on these concepts: {concepts}. What it does to others, only an evaluation can show.",
        "Attributes are what a picture looks like to a reader, never who or what anybody is. It is not for judging, "
        "counting or identifying real people.",
        "An even picture of a concept is a choice, not a fact about the world. What is asked for in words is meant to "
        "stay as it was; measure it before you rely on it.",
        "It belongs to the one base whose fingerprint stands below. On another one its effect is unknown.",
    ]
    if measured is None:
        lines.append("Nothing was measured yet: run `evaluate/shift.py` against the base before you publish a claim.")
    return "\n".join(f"- {line}" for line in lines)


def _measured(measured: Facts | None) -> str:
    """The rows of the evaluation's card snippet, whose values have their intervals in them."""
    if measured is None:
        return "Not yet. `evaluate/shift.py` measures what it changes and what it costs."
    return "\n".join(["| suite | quantity | value |", "|---|---|---|", *_rows(measured)])


def _rows(measured: Facts) -> Iterator[str]:
    for entry in measured["model-index"]:
        for result in entry["results"]:
            suite = result["dataset"]["config"]
            for metric in result["metrics"]:
                text = metric.get("args", {}).get("sentence", metric["value"])
                cells = (suite, metric["name"], text)
                yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _training(facts: Facts) -> str:
    rows = {
        "kind": f"{_kind(facts)}, alpha {facts['alpha']:g}, init {facts['init']}",
        "modules": f"{facts['num_modules']} (UNet: {facts['targets']}; text encoder: {facts['text_encoder']})",
        "method, steps, seed": f"{facts['method']}, {facts['steps']}, {facts['seed']}",
        "weights sha256": f"`{facts['weights_sha256']}`",
        "base UNet fingerprint": f"`{facts['base_fingerprint']}`",
        "curated set sha256": f"`{facts['data_sha256']}`",
        "config sha256": f"`{facts['config_sha256']}`",
    }
    if facts["training_readers"]:
        rows["chosen by the readers"] = f"{', '.join(facts['training_readers'])} (no independent judges of it)"
    rows |= {key.replace("_", " "): f"{facts[key]}" for key in ("rank_pattern", "alpha_pattern") if facts[key]}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _license(facts: Facts, license: str | None) -> str:
    own = (
        f"The adapter: {license}."
        if license
        else "The adapter: not chosen yet (scripts/publish_adapter.py asks for it)."
    )
    return f"{own} The base: {facts['base_license']}; what its licence asks of those who use the base holds here too."
