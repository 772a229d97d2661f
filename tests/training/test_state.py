from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evenhand.training.state import Checkpoint, latest_checkpoint, save_checkpoint

CONFIG = "c" * 64


def optimized(num_steps: int) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, fused=True)
    for step in range(num_steps):
        parameter.grad = torch.full((2, 3), 0.1 * (step + 1))
        optimizer.step()
    return parameter, optimizer


def checkpoint(step: int, *, loss: float = 0.1) -> Checkpoint:
    parameter, optimizer = optimized(3)
    return Checkpoint(
        step=step,
        config_sha256=CONFIG,
        loss=loss,
        sums={"loss": 1 / 3},
        sums_steps=2,
        adapter={"weight": parameter.detach()},
        optimizer=optimizer.state_dict(),
        scaler={"scale": 65536.0},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path) -> None:
    saved = checkpoint(7)
    save_checkpoint(tmp_path, saved, keep=2)
    back = latest_checkpoint(tmp_path, config_sha256=CONFIG)
    assert back is not None
    assert (back.step, back.loss, back.sums, back.sums_steps) == (7, 0.1, {"loss": 1 / 3}, 2)
    assert back.scaler == {"scale": 65536.0}
    assert torch.equal(back.adapter["weight"], saved.adapter["weight"])
    for key, value in saved.optimizer["state"][0].items():
        assert torch.equal(back.optimizer["state"][0][key], value)


def test_an_optimizer_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path) -> None:
    straight, _ = optimized(5)
    parameter, _ = optimized(3)
    save_checkpoint(tmp_path, checkpoint(3), keep=1)
    back = latest_checkpoint(tmp_path, config_sha256=CONFIG)
    assert back is not None
    resumed = torch.nn.Parameter(back.adapter["weight"].clone())
    fresh = torch.optim.AdamW([resumed], lr=1e-2, fused=True)
    fresh.load_state_dict(dict(back.optimizer))
    for step in (3, 4):
        resumed.grad = torch.full((2, 3), 0.1 * (step + 1))
        fresh.step()
    assert torch.equal(resumed, straight)
    assert not torch.equal(resumed, parameter)


def test_only_the_last_ones_are_kept(tmp_path) -> None:
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert names(tmp_path) == ["step-00000015", "step-00000020"]


def test_no_checkpoint_gives_none(tmp_path) -> None:
    assert latest_checkpoint(tmp_path / "nowhere", config_sha256=CONFIG) is None
    (tmp_path / ".writing-step-00000005").mkdir()
    assert latest_checkpoint(tmp_path, config_sha256=CONFIG) is None


def test_what_a_kill_left_half_written_is_not_read_and_is_written_again(tmp_path, monkeypatch) -> None:
    save_checkpoint(tmp_path, checkpoint(5), keep=2)

    def killed(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evenhand.training.state.write_json_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, checkpoint(10), keep=2)
    back = latest_checkpoint(tmp_path, config_sha256=CONFIG)
    assert back is not None
    assert back.step == 5
    save_checkpoint(tmp_path, checkpoint(10), keep=2)
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


def test_a_kill_while_old_ones_are_removed_leaves_no_half_under_its_name(tmp_path, monkeypatch) -> None:
    save_checkpoint(tmp_path, checkpoint(5), keep=1)
    real = __import__("shutil").rmtree

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if path.name.startswith(".removing") and path.is_dir():
            raise KeyboardInterrupt
        real(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr("evenhand.training.state.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, checkpoint(10), keep=1)
    assert [name for name in names(tmp_path) if name.startswith("step")] == ["step-00000010"]


def test_a_checkpoint_of_another_config_is_refused(tmp_path) -> None:
    save_checkpoint(tmp_path, checkpoint(5), keep=1)
    with pytest.raises(ValueError, match="written by another config"):
        latest_checkpoint(tmp_path, config_sha256="d" * 64)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(5), keep=1)
    assert names(path) == ["adapter.safetensors", "optimizer.safetensors", "state.json"]
