from __future__ import annotations

import json
import logging

import pytest
import torch

from evenhand.training.memory import memory_line
from tests.tiny_training import Stage

FLOAT_BYTES = 4


@pytest.fixture
def stage(tiny_folder, tiny_set_folder, tmp_path):
    return lambda **changes: Stage(tiny_folder, tiny_set_folder, tmp_path / "cache", **changes)


def test_the_report_says_which_part_needs_what(stage, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="evenhand.training")
    one = stage(steps=2, ema_decay=0.9)
    one.run(tmp_path)
    report = json.loads((tmp_path / "memory.json").read_text())
    size = sum(parameter.numel() for parameter in one.adapter.parameters.values()) * FLOAT_BYTES
    count = len(one.adapter.parameters)
    assert report["adapter"] == report["gradients"] == report["ema"] == size
    assert report["optimizer"] == 2 * size + count * FLOAT_BYTES  # two moments, and a step counter each
    networks = {"unet": one.base.unet, "vae": one.base.pipeline.vae, "text_encoder": one.base.pipeline.text_encoder}
    assert set(report["base"]) == set(networks)
    for name, module in networks.items():
        tensors = [*module.named_parameters(), *module.named_buffers()]
        assert report["base"][name] == sum(tensor.nbytes for key, tensor in tensors if ".lora_" not in key)
    images = sum(posterior.mean_BCHW.nbytes for posterior in one.batches.train.posteriors)
    assert report["cache"] > 2 * images  # mean and std of both splits, and their text
    assert report["peak_process"] > sum(report["base"].values())
    assert memory_line(report) in caplog.text


def test_networks_that_were_released_need_nothing(stage, tmp_path) -> None:
    one = stage(steps=1)
    one.base.release_encoders()
    one.run(tmp_path)
    report = json.loads((tmp_path / "memory.json").read_text())
    assert set(report["base"]) == {"unet"}
    assert report["ema"] == 0
    assert "vae" not in memory_line(report)


def test_a_smaller_optimizer_state_is_seen(stage, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from evenhand.training.optim import AdamW8bit

    small = AdamW8bit(
        learning_rate=1e-3,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=0.0,
        min_8bit_size=1,
        schedule="constant",
        warmup_steps=0,
    )
    for name, changes in (("full", {}), ("small", {"optim": small})):
        stage(steps=1, **changes).run(tmp_path / name)
    full, eight = (json.loads((tmp_path / name / "memory.json").read_text()) for name in ("full", "small"))
    assert eight["adapter"] == full["adapter"]
    assert eight["optimizer"] != full["optimizer"]


def test_memory_on_a_device_is_its_own_peak() -> None:
    report = {
        "base": {"unet": 3 << 20},
        **dict.fromkeys(("adapter", "gradients", "optimizer", "ema", "cache"), 1 << 20),
        "peak_process": 900 << 20,
        "peak_device": 40 << 20,
    }
    assert memory_line(report).endswith("peak on the device 40")
    assert memory_line({**report, "peak_device": None}).endswith("peak of the process 900")
    assert torch.tensor(0.0).nbytes == FLOAT_BYTES
