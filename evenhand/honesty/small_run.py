"""A whole small evaluation on the embedded base: the real generation, reading and analysis in about a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.adapters import lora
from evenhand.adapters.card import AdapterCard
from evenhand.adapters.settings import LoraSettings
from evenhand.analysis.results import Results, analyse_folder, write_results
from evenhand.bases.sd import LoadedStableDiffusion, StableDiffusion
from evenhand.evaluation.plan import GenerationPlan, Plan, freeze_plan
from evenhand.evaluation.reading import compare_unrelated, read_images
from evenhand.files import sha256_file
from evenhand.generation.arms import Work, finish_images, generate_arms
from evenhand.generation.check import check_adapter
from evenhand.generation.environment import environment_of
from evenhand.honesty.folders import TWO, plan_of, prompts
from evenhand.readers.planted import Planted
from evenhand.seeds import derive

if TYPE_CHECKING:
    import torch

BASE_MODEL = "evenhand:tinytown/base"
STEPS, IMAGE_PX, BATCH_SIZE = 2, 32, 4
STRENGTH = 1.0
FARTHEST = 500.0  # no colour is farther than that from another, so the reader reads every picture as one or the other


def small_base() -> LoadedStableDiffusion:
    """The embedded base on CPU."""
    import torch

    choice = StableDiffusion(
        name="tinytown", model=BASE_MODEL, revision=None, variant=None, license="apache-2.0", zero_terminal_snr=False
    )
    return choice.load(device=torch.device("cpu"), dtype=torch.float32)


def small_reader(*, farthest: float = FARTHEST) -> Planted:
    """A reader that sees a value in a picture by its mean colour, if that is not too far from both."""
    return Planted(
        name="planted",
        colors={"two": {TWO[0]: [215, 180, 150], TWO[1]: [150, 180, 215]}},
        max_distance=farthest,
        confusion=0.0,
        abstain=0.0,
        seed=0,
    )


def untrained_card(base: str, base_model: str, *, seed: int = 0) -> AdapterCard:
    """The card of an adapter whose weights were drawn, not trained."""
    return AdapterCard(
        name="untrained",
        base=base,
        base_model=base_model,
        base_license="apache-2.0",
        method="none",
        steps=0,
        seed=seed,
        concepts=(),
        prompts=(),
        data_sha256="",
        config_sha256="",
        training_readers=(),
        version="0",
    )


def save_adapter(base: LoadedStableDiffusion, folder: Path, *, strength: float, seed: int = 0) -> Path:
    """An adapter of rank 2 with random weights times ``strength`` in its second factor: 0 changes nothing."""
    import torch

    adapter = lora.attach(base, LoraSettings(rank=2, alpha=2.0, targets="cross_attention_kv"), seed=seed)
    tensors: dict[str, torch.Tensor] = adapter.tensors()
    for name, tensor in tensors.items():
        if ".lora_B." in name:
            generator = torch.Generator().manual_seed(derive(seed, name))
            tensors[name] = torch.randn(tensor.shape, generator=generator) * strength
    adapter.set_tensors(tensors)
    path = adapter.save(folder, untrained_card(base.name, BASE_MODEL, seed=seed))
    lora.detach(base)
    return path


def small_plan(base: LoadedStableDiffusion, adapter: Path, *, batch_size: int = BATCH_SIZE) -> Plan:
    """Four open prompts, two explicit, two unrelated; ten images an arm in batches of four."""
    asked = [
        *prompts(4),
        *prompts(2, suite="explicit", expects=({"two": "a"}, {"two": "b"})),
        *prompts(2, suite="unrelated"),
    ]
    seeds = {
        prompt.id: tuple(derive(0, prompt.id, index) for index in range(2 if prompt.suite == "heldout" else 1))
        for prompt in asked
    }
    generation = GenerationPlan(
        seeds=seeds,
        batch_size=batch_size,
        steps=STEPS,
        guidance=2.0,
        height_px=IMAGE_PX,
        width_px=IMAGE_PX,
        dtype="float32",
        device="cpu",
        base=base.name,
        base_fingerprint=base.fingerprint,
        encoders_fingerprint=base.encoders_fingerprint,
        adapter_sha256=sha256_file(adapter),
        adapter_scale=1.0,
        environment=environment_of(base, base.device),
    )
    margins = {"explicit": 0.05, "unrelated_similarity": 0.03, "target": 0.10, "unread": 0.05}
    return plan_of(asked, attributes={"two": TWO}, margins=margins, generation=generation, reader=small_reader().name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished small evaluation, and how many images this call made."""

    results: Results
    num_made: int


def evaluate(
    folder: Path, base: LoadedStableDiffusion, adapter: Path, plan: Plan, *, cache: Path | None = None
) -> Finished:
    """Plan, generate, read and analyse, or go on where a killed call ended."""
    import torch

    freeze_plan(plan, folder)
    work = Work(plan=plan, folder=folder, adapter=adapter, cache=cache)
    check_adapter(work, base)
    num_made = generate_arms(work, base)
    finish_images(plan, folder)
    reader = small_reader()
    read_images(plan, folder, reader.load(device=torch.device("cpu")), reader_name=reader.name, batch_size=BATCH_SIZE)
    compare_unrelated(plan, folder)
    results = analyse_folder(folder)
    write_results(results, folder)
    return Finished(results=results, num_made=num_made)


def evaluate_in_process(folder: str, adapter: str, num_threads: str) -> None:
    """The same in a process of its own, which somebody may kill."""
    import torch

    torch.set_num_threads(int(num_threads))
    base = small_base()
    evaluate(Path(folder), base, Path(adapter), small_plan(base, Path(adapter)))
