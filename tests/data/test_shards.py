from __future__ import annotations

import logging
import resource
import shutil
import signal
import threading

import pytest
import torch

from evenhand.data import shards
from evenhand.data.shards import INPUTS_NAME, DamagedShardError, ShardFolder, fill

NAMES = ("text-00000", "images-00000", "images-00001", "images-00002")
INPUTS = {"images": "a", "captions": "b", "transform": "c"}
LOGGER = "evenhand.data.shards"


def content(name: str) -> dict[str, torch.Tensor]:
    """What the shard of a name holds, in the kinds of numbers that encoders give."""
    number = float(NAMES.index(name))
    return {"mean_NCHW": torch.full((3, 2, 2), number), "std_NCHW": torch.full((3,), number, dtype=torch.bfloat16)}


class Encoder:
    """Notes what it is asked for; ``die_after`` calls it is killed."""

    def __init__(self, die_after: int = 99) -> None:
        self.names: list[str] = []
        self.die_after = die_after

    def __call__(self, name: str) -> dict[str, torch.Tensor]:
        if len(self.names) == self.die_after:
            raise KeyboardInterrupt
        self.names.append(name)
        return content(name)


def filled(folder: ShardFolder, encoder: Encoder, **ranks: int):
    ranks = {"rank": 0, "num_ranks": 1, **ranks}
    return fill(folder, NAMES, encoder, what="3 things", **ranks)


def equal(got) -> bool:
    return set(got) == set(NAMES) and all(
        torch.equal(got[name][key], value) for name in NAMES for key, value in content(name).items()
    )


@pytest.fixture
def folder(tmp_path) -> ShardFolder:
    return ShardFolder.of(tmp_path, "set-train", INPUTS)


@pytest.fixture
def said(caplog):
    """What was logged since the last call."""
    caplog.set_level(logging.INFO, logger=LOGGER)

    def text() -> str:
        lines = caplog.text
        caplog.clear()
        return lines

    return text


def test_what_is_written_is_read_and_a_second_call_encodes_nothing(folder, said) -> None:
    first, second = Encoder(), Encoder()
    assert equal(filled(folder, first))
    assert first.names == list(NAMES)
    assert "encoding 3 things once (no cache in " in said()
    assert equal(filled(folder, second))
    assert (second.names, said()) == ([], "")


def test_what_differs_from_the_nearest_encoding_is_named(tmp_path, said) -> None:
    for inputs, wanted in [
        (INPUTS, "(no cache in"),
        ({**INPUTS, "images": "other"}, "(changed: images)"),
        ({**INPUTS, "images": "other", "transform": "other"}, "(changed: transform)"),
        ({**INPUTS, "captions": "other", "transform": "new"}, "(changed: captions, transform)"),
    ]:
        assert equal(filled(ShardFolder.of(tmp_path, "set-train", inputs), Encoder()))
        assert wanted in said()
    assert equal(filled(ShardFolder.of(tmp_path, "another-train", INPUTS), Encoder()))
    assert "(no cache in" in said()  # another set's encoding is not looked at


def test_an_encoding_without_a_file_says_that_there_is_none_and_not_that_nothing_changed(folder, said) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled(folder, Encoder(die_after=0))
    said()
    assert equal(filled(folder, Encoder()))
    text = said()
    assert f"encoding 3 things once (begun before, but {folder.path} holds no file yet)" in text
    assert "changed" not in text


def test_files_of_an_earlier_format_are_not_used(folder, tmp_path, said) -> None:
    filled(folder, Encoder())
    said()
    older = ShardFolder(path=tmp_path / "set-train-0123456789abcdef", inputs={**folder.inputs, "format": "1"})
    shutil.move(folder.path, older.path)
    (older.path / INPUTS_NAME).unlink()
    older.open()
    encoder = Encoder()
    assert equal(filled(folder, encoder))
    assert encoder.names == list(NAMES)
    assert "(changed: format)" in said()


def test_a_killed_encoding_goes_on_with_the_files_that_are_whole(folder, said) -> None:
    with pytest.raises(KeyboardInterrupt):
        filled(folder, Encoder(die_after=3))
    said()
    (folder.path / ".images-00002.4711.tmp.safetensors").write_bytes(b"torn")  # what a kill -9 leaves
    second = Encoder()
    assert equal(filled(folder, second))
    assert second.names == ["images-00002"]
    assert "encoding 3 things: going on with the last 1 of 4 files" in said()


def flip_a_byte(path) -> None:
    torn = bytearray(path.read_bytes())
    torn[-5] ^= 1
    path.write_bytes(bytes(torn))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "its content is not what was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "images-00001.safetensors is damaged: "),
        (lambda path: path.write_bytes(b""), "images-00001.safetensors is damaged: "),
        (lambda path: shutil.copy(path.with_name("images-00000.safetensors"), path), "is another file than its name"),
    ],
    ids=["a bit", "cut short", "empty", "another"],
)
def test_a_damaged_file_is_encoded_again_with_a_line_and_the_others_are_kept(folder, said, damage, reason) -> None:
    filled(folder, Encoder())
    path = folder.path / "images-00001.safetensors"
    folder.read("images-00001")
    said()
    damage(path)
    with pytest.raises(DamagedShardError):
        folder.read("images-00001")
    encoder = Encoder()
    assert equal(filled(folder, encoder))
    assert encoder.names == ["images-00001"]
    lines = said()
    assert reason in lines
    assert lines.count("it is encoded again") == 1
    assert equal(filled(folder, Encoder(die_after=0)))
    assert said() == ""


def test_ranks_share_the_work_and_all_have_all_of_it(folder) -> None:
    encoders = [Encoder() for _ in range(3)]
    results: list[object] = [None] * 3

    def work(rank: int) -> None:
        results[rank] = filled(folder, encoders[rank], rank=rank, num_ranks=3)

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(equal(result) for result in results)
    assert [encoder.names for encoder in encoders] == [
        ["text-00000", "images-00002"],
        ["images-00000"],
        ["images-00001"],
    ]


def test_another_number_of_ranks_finds_the_same_files(folder) -> None:
    filled(folder, Encoder())
    assert equal(filled(folder, Encoder(die_after=0), rank=2, num_ranks=5))


def test_a_rank_that_waits_says_for_what_and_takes_a_damaged_file_only_when_it_is_whole(
    folder, said, monkeypatch
) -> None:
    monkeypatch.setattr(shards, "LOG_SECONDS", 0.0)
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    filled(folder, Encoder())
    flip_a_byte(folder.path / "images-00000.safetensors")  # rank 1's
    said()
    results = []
    waiter = threading.Thread(
        target=lambda: results.append(filled(folder, Encoder(), rank=0, num_ranks=2)), daemon=True
    )
    waiter.start()
    waiter.join(timeout=0.5)
    assert waiter.is_alive()
    assert equal(filled(folder, Encoder(), rank=1, num_ranks=2))
    waiter.join(timeout=60)
    assert equal(results[0])
    assert "waiting for 1 files in " in (lines := said())
    assert "first images-00000 of process 1 (cache_folder must be one that all processes see)" in lines


def test_reading_maps_files_and_takes_no_memory_of_its_own(tmp_path) -> None:
    """64 MB on disk; what the process owns itself (not the system's file cache) grows by less than 8 MB."""
    folder = ShardFolder.of(tmp_path, "large", INPUTS)
    folder.write("images", {"mean_NCHW": torch.zeros(16 * 2**20)})

    def own_kilobytes() -> int:
        with open("/proc/self/status") as status:  # noqa: PTH123
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    before = own_kilobytes()
    tensors = folder.read("images")
    assert own_kilobytes() - before < 8 * 1024
    copied = tensors["mean_NCHW"] + 0  # the control: a tensor in memory is seen
    assert own_kilobytes() - before > 56 * 1024
    assert len(copied) == 16 * 2**20


def test_a_cache_folder_that_cannot_be_written_to_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"the cache folder .*file/set-train-.* cannot be written to: .*cache_folder"):
        filled(ShardFolder.of(tmp_path / "file", "set-train", INPUTS), Encoder())


def test_a_full_disk_ends_in_one_line_and_leaves_no_file(folder) -> None:
    """A limit on the size of files stands for a disk without room: the same call to the system fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the call fails, instead of ending the process
    folder.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot be written to: .*set cache_folder to another, or make room"):
            filled(folder, Encoder(), rank=1, num_ranks=2)  # not 0, whose progress bar writes to a file here
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in folder.path.iterdir()] == [INPUTS_NAME]
    assert equal(filled(folder, Encoder()))
