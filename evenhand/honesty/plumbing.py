"""Is what is compared what it seems? Null adapters, frozen weights, equal batches, kills, caches, no network."""

from __future__ import annotations

import copy
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenhand.adapters import lora
from evenhand.analysis.results import RESULTS_FILE, Results
from evenhand.bases.sd import LoadedStableDiffusion
from evenhand.evaluation.folder import IMAGES_FILE, load_images, planned_images
from evenhand.evaluation.plan import GenerationPlan, Plan, freeze_plan
from evenhand.files import read_jsonl, sha256_json
from evenhand.generation.arms import batches, unfinished_batches
from evenhand.generation.base_arms import NOT_OF_THE_BASE, batch_key
from evenhand.generation.second_arm import plain_maker
from evenhand.honesty.bench import Bench
from evenhand.honesty.calibration import CHANGED
from evenhand.honesty.folders import ARMS, SHIFT
from evenhand.honesty.outcome import Figure, Outcome, exactly, true
from evenhand.honesty.small_run import STRENGTH, evaluate, save_adapter, small_base, small_plan
from evenhand.honesty.verdicts import refusal

if TYPE_CHECKING:
    import torch

KILL_SECONDS = 120.0  # a child that has written nothing by then hangs


def check_null_adapter(bench: Bench) -> Outcome:
    """An adapter of zeros, scale 0 and an adapter taken off give the base's images bit for bit, and no shift at all."""
    folder = bench.folder("null-adapter")
    base = small_base()
    zeros = save_adapter(base, folder / "zeros", strength=0.0)
    results = evaluate(folder / "run", base, zeros, small_plan(base, zeros)).results
    images = {key: record.sha256 for key, record in load_images(folder / "run").items()}
    different = sum(digest != images[ARMS[0], prompt, seed] for (_, prompt, seed), digest in images.items())
    strong = save_adapter(base, folder / "strong", strength=STRENGTH)
    plan = small_plan(base, strong)
    batch, make = batches(plan, ARMS[0])[0], plain_maker(base, plan)

    def pixels() -> list[bytes]:
        return [made.image.tobytes() for made in make(batch.images)]

    before = pixels()
    lora.load(base, strong)
    active = pixels()
    with lora.scaled(base, 0.0):
        scaled = pixels()
    with base.without_adapter():
        without = pixels()
    lora.detach(base)
    words = [verdict.verdict for verdict in results.verdicts if verdict.arm == SHIFT]
    return Outcome(
        figures=(
            exactly(f"adapter of zeros: of {len(images)} images differ", different, 0),
            exactly(
                "  shifts that are not exactly 0", len(_nonzero(results)), 0, note=", ".join(_nonzero(results)[:3])
            ),
            exactly("  p values that are not 1", sum(p != 1.0 for p in _p_values(results)), 0),
            true("  verdict claims nothing", not set(words) & {*CHANGED, "harm"}, note=", ".join(words)),
            true("scale 0: the base's images", scaled == before),
            true("adapter switched off: the base's images", without == before),
            true("adapter taken off: the base's images", pixels() == before),
            true("control: the adapter itself changes them", all(a != b for a, b in zip(active, before, strict=True))),
        )
    )


# Named shift, yet no difference of the arms: 1 or 0 where both arms are equal.
NOT_DIFFERENCES = ("similarity", "phi")


def _nonzero(results: Results) -> list[str]:
    return [
        f"{estimate.name} {estimate.value}"
        for estimate in results.estimates
        if estimate.arm == SHIFT and estimate.name not in NOT_DIFFERENCES and estimate.value not in (0.0, None)
    ]


def _p_values(results: Results) -> list[float | None]:
    return [test.p for test in results.permutation] + [test.p for test in results.prompt_tests]


def check_no_fuse(bench: Bench) -> Outcome:
    """After a whole run the base's weights are what they were, to the last bit."""
    folder = bench.folder("no-fuse")
    base = small_base()
    adapter = save_adapter(base, folder / "adapter", strength=STRENGTH)
    unet: Any = base.unet  # Any: diffusers has no types
    before = exact_sha256(unet)
    evaluate(folder / "run", base, adapter, small_plan(base, adapter))
    after = exact_sha256(unet) == before
    lora.load(base, adapter)
    unet.fuse_lora()
    unet.unfuse_lora()
    lora.detach(base)
    fused = exact_sha256(unet) == before
    return Outcome(
        figures=(
            true("weights after a run: unchanged", after),
            Figure(label="naive: fuse and unfuse: unchanged", value=float(fused), high=0.5, note="must fail"),
        )
    )


def exact_sha256(module: torch.nn.Module) -> str:
    """sha256 of a module's weights as they are: a base's fingerprint is of fp16, in which rounding is not seen."""
    digests = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in module.state_dict().items()}
    return sha256_json(digests)


def check_same_batches(bench: Bench) -> Outcome:
    """Both arms start from the same noise in the same batches; a folder refuses another batch size."""
    folder = bench.folder("same-batches")
    base = small_base()
    adapter = save_adapter(base, folder / "adapter", strength=STRENGTH)
    plan = small_plan(base, adapter)
    evaluate(folder / "run", base, adapter, plan)
    noise = {key: record.noise_sha256 for key, record in load_images(folder / "run").items()}
    other_noise = sum(digest != noise[ARMS[0], prompt, seed] for (_, prompt, seed), digest in noise.items())
    layouts = [[batch.images for batch in batches(plan, arm)] for arm in ARMS]
    another = small_plan(base, adapter, batch_size=1)
    refused = refusal(lambda: freeze_plan(another, folder / "run"))
    return Outcome(
        figures=(
            exactly(f"of {len(noise)} images: other noise than their pair", other_noise, 0),
            exactly("  different noises, one for each pair", len(set(noise.values())), len(noise) / 2),
            true("batches of both arms are the same", layouts[0] == layouts[1]),
            true("batch size 1 in a folder of batches of 4: refused", refused is not None, note=refused or ""),
        )
    )


def check_resume(bench: Bench) -> Outcome:
    """Killed at random moments, a run ends with the same results, and makes no image twice that was finished."""
    import torch

    folder = bench.folder("resume")
    base = small_base()
    adapter = save_adapter(base, folder / "adapter", strength=STRENGTH)
    plan = small_plan(base, adapter)
    evaluate(folder / "whole", base, adapter, plan)
    rng = np.random.default_rng(bench.seed)
    total = len(ARMS) * len(planned_images(plan, ARMS[0]))
    num_kills = 3 if bench.full else 1
    moments = sorted(int(moment) for moment in rng.integers(1, total, size=num_kills))
    killed = folder / "killed"
    num_killed = sum(_killed_at(killed, adapter, moment, torch.get_num_threads()) for moment in moments)
    missing = sum(len(batch.images) for arm in ARMS for batch in unfinished_batches(plan, killed, arm))
    made = evaluate(killed, base, adapter, plan).num_made
    again = evaluate(killed, base, adapter, plan).num_made
    same = (killed / RESULTS_FILE).read_bytes() == (folder / "whole" / RESULTS_FILE).read_bytes()
    return Outcome(
        figures=(
            exactly("killed while it ran", num_killed, num_kills, note=f"after image {', '.join(map(str, moments))}"),
            true("results.json as without a kill, byte for byte", same),
            exactly(f"of {total} images made afterwards: not missing ones", made - missing, 0, note=f"{made} made"),
            exactly("images made by a call with nothing to do", again, 0),
        )
    )


def _killed_at(folder: Path, adapter: Path, num_images: int, num_threads: int) -> bool:
    """Run in a process until that many images are recorded, then kill it; whether it was still running."""
    code = "import sys; from evenhand.honesty.small_run import evaluate_in_process; evaluate_in_process(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(adapter), str(num_threads)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + KILL_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if len(read_jsonl(folder / IMAGES_FILE)) >= num_images:
            break
        time.sleep(0.002)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


@contextmanager
def no_network() -> Iterator[list[object]]:
    """Inside, nothing reaches another machine; gives the list of what tried to."""
    tried: list[object] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:  # Any: what a socket takes
        if self.family in (socket.AF_INET, socket.AF_INET6):
            tried.append(address)
            raise ConnectionRefusedError(f"the self-test blocks connections, {address} among them")
        connect(self, address)

    socket.socket.connect = refuse  # type: ignore[assignment,method-assign]  # the one way to see every library's calls
    try:
        yield tried
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


def check_cache_key(bench: Bench) -> Outcome:
    """The base's images come from the cache when nothing changed, and never when anything did."""
    folder = bench.folder("cache-key")
    base = small_base()
    first, second = (save_adapter(base, folder / name, strength=STRENGTH, seed=seed) for seed, name in enumerate("ab"))
    plans = [small_plan(base, adapter) for adapter in (first, second)]
    num_images = len(planned_images(plans[0], ARMS[0]))
    cache = folder / "cache"
    made = [
        evaluate(folder / f"run {number}", base, adapter, plan, cache=cache).num_made
        for number, (adapter, plan) in enumerate(zip((first, second), plans, strict=True))
    ]
    images = batches(plans[0], ARMS[0])[0].images
    key = batch_key(plans[0], images)
    changed = {name: batch_key(plan, images) for name, plan in _changed_plans(plans[0])}
    prompt, seed = images[0]
    changed["a prompt's text"] = batch_key(plans[0], [(replace(prompt, text=prompt.text + "."), seed), *images[1:]])
    changed["a seed"] = batch_key(plans[0], [(prompt, seed + 1), *images[1:]])
    changed["the order of the batch"] = batch_key(plans[0], images[::-1])
    hits = [name for name, other in changed.items() if other == key]
    other_adapter = refusal(lambda: freeze_plan(plans[1], folder / "run 0"))
    return Outcome(
        figures=(
            exactly("images made for a second adapter: its own only", made[1], num_images),
            Figure(label="control: for the first, the base's too", value=made[0], low=num_images + 1),
            exactly(f"of {len(changed)} changed facts: still a hit", len(hits), 0, note=", ".join(hits[:3])),
            true("control: same key for another adapter", batch_key(plans[1], images) == key),
            true("another adapter's folder: refused", other_adapter is not None),
        )
    )


def _changed_plans(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Plans in which one fact about how images are made is another; the adapter's and the names are not among them."""
    assert plan.generation is not None
    content = asdict(plan.generation)
    for path, value in _leaves(content):
        if path[0] in NOT_OF_THE_BASE:
            continue
        edited = copy.deepcopy(content)
        place: Any = edited  # Any: nested plain containers
        for step in path[:-1]:
            place = place[step]
        if isinstance(value, str):
            place[path[-1]] = f"{value} changed"
        else:
            place[path[-1]] = not value if isinstance(value, bool) else 7
        yield ".".join(map(str, path)), replace(plan, generation=GenerationPlan(**edited))


# Any: nested plain containers
def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], object]]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if children is None:
        yield path, node
        return
    for step, child in children:
        yield from _leaves(child, (*path, step))


def check_offline(bench: Bench) -> Outcome:
    """A whole evaluation with the embedded base needs no other machine, and does not ask for one."""
    folder = bench.folder("offline")
    with no_network() as tried:
        base = small_base()
        adapter = save_adapter(base, folder / "adapter", strength=STRENGTH)
        results = evaluate(folder / "run", base, adapter, small_plan(base, adapter)).results
        num_tried = len(tried)
        with suppress(ConnectionRefusedError):  # reserved for documentation: nobody's
            socket.create_connection(("192.0.2.1", 80), timeout=1).close()
    return Outcome(
        figures=(
            exactly("connections that an evaluation tried", num_tried, 0),
            true("it came to its results", bool(results.estimates)),
            exactly("control: an attempt is seen", len(tried) - num_tried, 1),
        )
    )


def check_loads_or_fails(bench: Bench) -> Outcome:
    """An adapter whose keys don't fit is refused; it is never measured as "no change"."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = bench.folder("loads-or-fails")
    base = small_base()
    adapter = save_adapter(base, folder / "adapter", strength=STRENGTH)
    with safe_open(adapter, framework="pt") as opened:
        header = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open has no __iter__
    broken = {
        "every key renamed": {key.replace("attn2", "attn9"): value for key, value in tensors.items()},
        "one key renamed": {
            (key.replace("attn2", "attn9") if index == 0 else key): value
            for index, (key, value) in enumerate(sorted(tensors.items()))
        },
        "half of the keys foreign": {
            (key if index % 2 else f"text_encoder.{key}"): value
            for index, (key, value) in enumerate(sorted(tensors.items()))
        },
    }
    figures = []
    for label, wrong in broken.items():
        path = folder / f"{label}.safetensors"
        save_file(wrong, path, metadata=header)
        message = refusal(lambda path=path: lora.load(base, path))  # type: ignore[misc]  # binds the loop's path
        lora.detach(base)
        figures.append(true(f"{label}: refused", message is not None))
    figures.append(true("made for another base: refused", _on_another_base(base, adapter) is not None))
    figures.append(true("control: the right one loads", refusal(lambda: lora.load(base, adapter)) is None))
    lora.detach(base)
    return Outcome(figures=tuple(figures))


def _on_another_base(base: LoadedStableDiffusion, adapter: Path) -> str | None:
    """The message when an adapter is loaded onto a base whose fingerprint is another."""
    fingerprint = base.fingerprint
    base.fingerprint = "0" * len(fingerprint)
    try:
        return refusal(lambda: lora.load(base, adapter))
    finally:
        base.fingerprint = fingerprint
        lora.detach(base)
