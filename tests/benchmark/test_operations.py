"""What is counted, and what the counts of the graphs are: numbers that no machine changes."""

from __future__ import annotations

import pytest
import torch

from evenhand.adapters.settings import LoraSettings
from evenhand.benchmark.architectures import meta_unet, random_base
from evenhand.benchmark.counts import GraphCounts, count_graph
from evenhand.benchmark.operations import counted
from evenhand.compose import compose_config

MOST_OPERATIONS = 1.6  # of the frozen UNet's


def attention() -> LoraSettings:
    """The LoRA that a training has unless another one is chosen."""
    settings: LoraSettings = compose_config("train", ["data=none", "lora=attention"]).build("lora")
    return settings


def test_views_cost_nothing_and_what_computes_is_counted_once() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    with counted() as counter:
        a.view(3, 2).t().unsqueeze(0).detach()
        assert counter.total() == 0
        a.reshape(6)  # a view, as it is contiguous
        assert counter.total() == 0
        a @ b
        assert counter.total() == 1
        a.t().reshape(6)  # a copy, as it is not
        assert counter.total() == 2
        torch._foreach_add([a, a, a], 1.0)  # fused
        assert counter.total() == 3
    a.add(1.0)
    assert counter.total() == 3


def test_reading_a_value_out_is_a_sync_and_no_operation() -> None:
    a = torch.ones(3)
    with counted() as counter:
        assert a[0].item() == 1.0
        a.tolist()
    assert counter.syncs() >= 1
    assert counter.total() == 0


def test_phases_are_counted_apart() -> None:
    a = torch.ones(3)
    with counted() as counter:
        counter.phase = "one"
        a + a
        counter.phase = "two"
        a * a + a
    assert (counter.total("one"), counter.total("two"), counter.total()) == (1, 2, 3)
    assert counter.total("one", "two") == 3


@pytest.fixture(scope="module")
def sd15_counts() -> GraphCounts:
    return count_graph("sd15", attention())


def test_the_lean_lora_adds_few_operations_to_the_graph_of_sd15(sd15_counts: GraphCounts) -> None:
    """128 modules, six operations each, less those of the text's gradient; PEFT alone is the control that fails."""
    counts = sd15_counts
    assert counts.num_modules == 128
    assert counts.ours / counts.bare <= MOST_OPERATIONS
    assert counts.peft / counts.bare > MOST_OPERATIONS
    # Six for each module, and one less where the input, the text, has no gradient: 32 keys and values. Their attention
    # needs gradients that the frozen UNet's does not, and the layers before the first adapter need none.
    assert counts.ours - counts.bare == pytest.approx(6 * 128 - 32, abs=64)


def test_the_narrow_architecture_has_the_same_graph(sd15_counts: GraphCounts) -> None:
    """But for the shortcuts between levels of different width, which it does not need."""
    wide, narrow = sd15_counts, count_graph("sd15_narrow", attention())
    assert narrow.num_modules == wide.num_modules
    assert narrow.ours - narrow.bare == wide.ours - wide.bare
    assert 0 <= wide.bare - narrow.bare < 10


@pytest.mark.parametrize(("name", "parameters"), [("sd15", 859_520_964), ("sdxl", 2_567_463_684)])
def test_architectures_are_as_large_as_the_published_ones(name: str, parameters: int) -> None:
    """Numbers of parameters as the model cards and diffusers' documentation give them."""
    assert sum(parameter.numel() for parameter in meta_unet(name).parameters()) == parameters


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'sd3'; choose one of sd15"):
        meta_unet("sd3")


def test_a_random_base_encodes_denoises_and_is_drawn_from_its_seed() -> None:
    def prediction(seed: int) -> torch.Tensor:
        base = random_base("sd15_narrow", device=torch.device("cpu"), dtype=torch.float32, seed=seed)
        posterior = base.encode_images(torch.zeros(1, 3, 128, 128))
        with torch.no_grad():
            return base.denoise(posterior.mean_BCHW, torch.tensor([5]), base.encode_text(["a portrait"]))

    first = prediction(0)
    assert first.shape == (1, 4, 16, 16)
    assert torch.equal(first, prediction(0))
    assert not torch.equal(first, prediction(1))
