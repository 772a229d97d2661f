from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import safetensors.torch
import torch

from evenhand.training import state
from evenhand.training.state import Checkpoint, latest_checkpoint, note_validated, save_checkpoint

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
        validated_step=4,
        adapter={"weight": parameter.detach()},
        optimizer=optimizer.state_dict(),
        scaler={"scale": 65536.0},
        ema={"weight": parameter.detach() / 3},
        ema_updates=3,
        calibration={"log_weights": [1 / 3, -0.1], "num_looks": 2},
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
    assert (back.validated_step, back.ema_updates) == (4, 3)
    assert back.calibration == {"log_weights": [1 / 3, -0.1], "num_looks": 2}
    assert torch.equal(back.adapter["weight"], saved.adapter["weight"])
    assert torch.equal(back.ema["weight"], saved.ema["weight"])
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


class Killed(BaseException):
    """The process ends here: nothing of ours may catch it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> list[str]:
    """Die at the ``number``-th touch of the disk (before or after it happened); gives the list of touches so far."""
    touches: list[str] = []

    def watched(name: str, real):
        def call(*arguments, **more):
            touches.append(name)
            if len(touches) == number and not after:
                raise Killed
            result = real(*arguments, **more)
            if len(touches) == number and after:
                raise Killed
            return result

        return call

    monkeypatch.setattr(state.shutil, "rmtree", watched("rmtree", state.shutil.rmtree))
    monkeypatch.setattr("safetensors.torch.save_file", watched("save_file", safetensors.torch.save_file))
    for name in ("sha256_file", "write_json_atomic", "_sync"):
        monkeypatch.setattr(state, name, watched(name, getattr(state, name)))
    for name in ("rename", "mkdir"):
        monkeypatch.setattr(Path, name, watched(name, getattr(Path, name)))
    return touches


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_at_any_touch_of_the_disk_the_old_or_the_new_checkpoint_is_whole(tmp_path, monkeypatch, keep) -> None:
    with monkeypatch.context() as patch:
        touches = kill_at(patch, 0, after=False)
        save_checkpoint(tmp_path / "count", checkpoint(5), keep=keep)
        save_checkpoint(tmp_path / "count", checkpoint(10), keep=keep)
        first = touches.count("_sync")
    assert first > 6
    found = set()
    for number in range(1, len(touches)):
        for after in (False, True):
            folder = tmp_path / f"{number}-{after}"
            save_checkpoint(folder, checkpoint(5), keep=keep)
            with monkeypatch.context() as patch:
                kill_at(patch, number, after=after)
                with contextlib.suppress(Killed):
                    save_checkpoint(folder, checkpoint(10), keep=keep)
            back = latest_checkpoint(folder, config_sha256=CONFIG)
            assert back is not None
            found.add(back.step)
            save_checkpoint(folder, checkpoint(15), keep=1)
            assert names(folder) == ["step-00000015"]
    assert found == {5, 10}


def damage(folder: Path, file: str, how: str) -> None:
    path = folder / file
    content = path.read_bytes()
    if how == "flipped":
        middle = len(content) - 5  # in the tensors, or in state.json's own sha256
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, caplog, file, how) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert latest_checkpoint(tmp_path, config_sha256=CONFIG).step == 10
    assert caplog.text == ""
    damage(tmp_path / "step-00000010", file, how)
    back = latest_checkpoint(tmp_path, config_sha256=CONFIG)
    assert back is not None
    assert back.step == 5
    assert "step-00000010 is damaged" in caplog.text
    assert file in caplog.text


def test_one_changed_number_in_the_state_is_seen(tmp_path, caplog) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    path = tmp_path / "step-00000010" / "state.json"
    path.write_text(path.read_text().replace('"step": 10', '"step": 11'))
    assert latest_checkpoint(tmp_path, config_sha256=CONFIG).step == 5
    assert "state.json is not as it was written" in caplog.text


def test_where_all_are_damaged_nothing_is_guessed(tmp_path) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
        damage(tmp_path / f"step-{step:08d}", "adapter.safetensors", "cut")
    with pytest.raises(ValueError, match="all 2 checkpoints in .* are damaged: remove the folder"):
        latest_checkpoint(tmp_path, config_sha256=CONFIG)


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_of_later_steps_give_way_and_never_push_out_whole_ones(tmp_path, caplog, keep) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    damage(tmp_path / "step-00000010", "adapter.safetensors", "flipped")
    save_checkpoint(tmp_path, checkpoint(7), keep=keep)
    assert names(tmp_path) == ["step-00000005", "step-00000007"][-keep:]
    save_checkpoint(tmp_path, checkpoint(10), keep=keep)
    assert latest_checkpoint(tmp_path, config_sha256=CONFIG).step == 10
    assert caplog.text == ""


def test_a_full_disk_is_said_in_one_line_and_leaves_the_checkpoint_of_before(tmp_path, monkeypatch) -> None:
    save_checkpoint(tmp_path, checkpoint(5), keep=1)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state, "_sync", full)
        with pytest.raises(ValueError, match=r"cannot write checkpoint .*step-00000010 \(No space left on device\)"):
            save_checkpoint(tmp_path, checkpoint(10), keep=1)
    assert names(tmp_path) == ["step-00000005"]


def test_a_checkpoint_of_another_config_is_refused(tmp_path) -> None:
    save_checkpoint(tmp_path, checkpoint(5), keep=1)
    with pytest.raises(ValueError, match="written by another config"):
        latest_checkpoint(tmp_path, config_sha256="d" * 64)


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(5), keep=1)
    assert names(path) == ["adapter.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]


def test_that_a_step_was_validated_is_noted_in_its_checkpoint_and_nothing_else_changes(tmp_path) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    note_validated(tmp_path, 10)
    note_validated(tmp_path, 15)  # without a checkpoint there is nothing to note
    back = latest_checkpoint(tmp_path, config_sha256=CONFIG)
    assert back is not None
    assert (back.step, back.validated_step, back.sums) == (10, 10, {"loss": 1 / 3})
    assert names(tmp_path) == ["step-00000005", "step-00000010"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
