from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from evenhand.data.order import step_rows

BUCKETS = (tuple(range(7)), tuple(range(7, 10)), tuple(range(10, 27)))  # 7, 3 and 17 rows
NUM_ROWS = 27
BATCH = 4


def steps(num_steps: int, *, buckets=BUCKETS, batch_size: int = BATCH, seed: int = 0, stream: str = "train"):
    return [step_rows(buckets, batch_size=batch_size, step=step, seed=seed, stream=stream) for step in range(num_steps)]


def bucket_of(rows: list[int], buckets=BUCKETS) -> int:
    (bucket,) = {index for row in rows for index, bucket in enumerate(buckets) if row in bucket}
    return bucket


def passes(rows: list[int], size: int) -> list[list[int]]:
    return [rows[at : at + size] for at in range(0, len(rows) - size + 1, size)]


def test_one_bucket_is_cut_from_passes_that_show_every_row_once_in_an_order_of_their_own() -> None:
    seen = [row for rows in steps(9, buckets=(tuple(range(12)),), batch_size=8) for row in rows]
    assert all(sorted(one) == list(range(12)) for one in passes(seen, 12))
    assert len({tuple(one) for one in passes(seen, 12)}) == 6


@pytest.mark.parametrize("batch_size", [1, 4, 5, 32])
def test_a_step_has_rows_of_one_bucket_and_no_bucket_leaves_a_row_out_or_doubles_it(batch_size) -> None:
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for rows in steps(300, batch_size=batch_size):
        assert len(rows) == batch_size
        seen[bucket_of(rows)] += rows
    for bucket, rows in seen.items():
        assert len(rows) >= len(BUCKETS[bucket])
        assert all(sorted(one) == list(BUCKETS[bucket]) for one in passes(rows, len(BUCKETS[bucket])))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 32])
def test_after_any_step_each_bucket_has_had_its_share_of_the_rows_within_an_epoch(batch_size) -> None:
    """A bucket lags behind its share by less than a batch at the end of an epoch, and by an epoch's rows within one."""
    counts: Counter[int] = Counter()
    for step, rows in enumerate(steps(400, batch_size=batch_size), start=1):
        counts.update([bucket_of(rows)])
        for bucket, members in enumerate(BUCKETS):
            share = Fraction(step * len(members), NUM_ROWS)
            slack = Fraction(len(members), batch_size) + len(BUCKETS) + 1
            assert abs(counts[bucket] - share) <= slack
    for bucket, members in enumerate(BUCKETS):
        assert counts[bucket] / 400 == pytest.approx(len(members) / NUM_ROWS, abs=(len(members) + 5) / 400)


def test_rows_that_do_not_fill_a_batch_come_first_in_the_next_epoch() -> None:
    """By hand: 3 rows at batches of 4 give no batch in epoch 0, and floor(3 e / 4) batches in the first e epochs."""
    epochs_of_batches = [
        sum((epoch + 1) * size // BATCH - epoch * size // BATCH for size in (7, 3, 17)) for epoch in range(4)
    ]
    assert epochs_of_batches == [5, 7, 7, 8]
    chosen = [bucket_of(rows) for rows in steps(sum(epochs_of_batches))]
    at, of_small = 0, []
    for number in epochs_of_batches:
        of_small.append(chosen[at : at + number].count(1))
        at += number
    assert of_small == [0, 1, 1, 1]


def test_buckets_come_in_a_random_order_that_changes_from_epoch_to_epoch() -> None:
    chosen = [bucket_of(rows) for rows in steps(27 * 4, batch_size=1)]
    epochs = passes(chosen, NUM_ROWS)
    assert all(Counter(epoch) == Counter({0: 7, 1: 3, 2: 17}) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(epoch != sorted(epoch) for epoch in epochs)


def test_the_order_is_a_function_of_seed_stream_and_step() -> None:
    assert steps(50) == steps(50)
    assert step_rows(BUCKETS, batch_size=BATCH, step=49, seed=0, stream="train") == steps(50)[49]
    assert steps(50) != steps(50, seed=1)
    assert steps(50) != steps(50, stream="preserve")


def test_a_step_far_away_is_found_at_once() -> None:
    rows = step_rows(BUCKETS, batch_size=BATCH, step=10**9, seed=0, stream="train")
    assert len(rows) == BATCH
    assert bucket_of(rows) in (0, 1, 2)
