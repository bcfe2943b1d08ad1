"""Sequences of idempotent producers, by the rules of Kafka's ProducerStateManager."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from commitlog.batch_errors import (
    BatchError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
)
from commitlog.foreign import SEQUENCES, Sequenced
from commitlog.producers import (
    EXPIRE_AFTER_MS,
    MAX_ROWS,
    PRODUCERS_TABLE,
    ROWS_BYTES,
    UNKNOWN_MS,
    Producers,
    Written,
    new_producer,
)

TOPIC = "00" * 16
LAST = SEQUENCES - 1


class Bench:
    """Producers over a table that is a plain map."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.now_ms = 1_000
        self.offset = 0
        self.producers = Producers({}, self.now_ms)

    def reopen(self) -> None:
        self.producers = Producers(self.rows, self.now_ms)

    def send(self, first: int, count: int = 1, *, producer_id: int = 7, epoch: int = 0) -> int:
        batch = Sequenced(producer_id=producer_id, epoch=epoch, first=first, count=count)
        before = self.producers.duplicate_of(TOPIC, 0, batch)
        if before is not None:
            return before.base_offset
        base_offset, self.offset = self.offset, self.offset + count
        for table, key, value in self.producers.appended(
            TOPIC, 0, batch, base_offset, now_ms=self.now_ms, now_monotonic_ms=self.now_ms
        ):
            assert table == PRODUCERS_TABLE
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = value
        assert len(self.rows) == len(self.producers)
        return base_offset

    def refused(self, first: int, count: int = 1, **options: Any) -> type[BatchError] | None:
        before = self.offset
        try:
            self.send(first, count, **options)
        except BatchError as error:
            assert self.offset == before
            return type(error)
        return None


@pytest.fixture(params=["same-run", "reopened"])
def reopened(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "reopened")


def test_the_last_five_batches_keep_their_offsets(reopened: bool) -> None:
    bench = Bench()
    offsets = [bench.send(4 * number, 4) for number in range(9)]
    if reopened:
        bench.reopen()
    assert [bench.send(4 * number, 4) for number in range(4, 9)] == offsets[4:]
    for number in range(4):
        assert bench.refused(4 * number, 4) is DuplicateSequenceError
    assert bench.send(36, 4) == 36


def test_a_row_of_before_times_were_kept_is_read() -> None:
    key = f"7/{TOPIC}/0"
    producers = Producers({key: {"epoch": 0, "run": 3, "last_ms": 5, "batches": [[0, 2, 40]]}}, 0)
    again = Sequenced(producer_id=7, epoch=0, first=0, count=3)
    assert producers.duplicate_of(TOPIC, 0, again) == Written(0, 2, 40, UNKNOWN_MS)


def test_the_rows_that_change_with_a_batch_take_no_more_than_is_counted() -> None:
    far = 1 << 62
    producers = Producers({}, 0)
    widest = Sequenced(producer_id=(1 << 53) - 1, epoch=(1 << 15) - 1, first=0, count=1 << 30)
    for number in range(20):
        other = Sequenced(producer_id=(1 << 53) - 2 - number, epoch=0, first=0, count=1)
        list(producers.appended("ff" * 16, 65_535, other, far, now_ms=far, now_monotonic_ms=0))
    for number in range(6):
        one = Sequenced(producer_id=widest.producer_id, epoch=widest.epoch, first=SEQUENCES - 9 + number, count=1 << 30)
        at_ms = EXPIRE_AFTER_MS if number else 1
        changes = list(producers.appended("ff" * 16, 65_535, one, far, now_ms=far, now_monotonic_ms=at_ms))
        assert len(msgspec.msgpack.encode(changes)) <= ROWS_BYTES
        if number == 1:
            assert len(changes) > 5, "old rows go with it"


def test_what_does_not_follow_is_out_of_order(reopened: bool) -> None:
    bench = Bench()
    bench.send(0, 10)
    if reopened:
        bench.reopen()
    for first, count in ((11, 1), (9, 2), (5, 6), (0, 11), (LAST, 1), (LAST, 11), (10 + SEQUENCES // 2, 1)):
        assert bench.refused(first, count) is OutOfOrderSequenceError, (first, count)
    assert bench.refused(10, 1) is None


def test_a_duplicate_is_only_what_was_appended_for_certain() -> None:
    """A client takes that error for an acknowledgement, so a batch that never arrived must not get it."""
    bench = Bench()
    bench.send(100, 10)  # unknown, so it may begin anywhere; 90 to 99 went astray
    assert bench.refused(90, 10) is OutOfOrderSequenceError
    assert bench.refused(95, 10) is OutOfOrderSequenceError
    assert bench.refused(102, 3) is DuplicateSequenceError
    bench.send(0, epoch=1)
    assert bench.refused(LAST, epoch=1) is OutOfOrderSequenceError


def test_sequences_wrap() -> None:
    bench = Bench()
    bench.send(LAST - 3, 2)
    assert bench.send(LAST - 1, 4) == 2, "2^31-2, 2^31-1, 0, 1"
    assert bench.send(LAST - 1, 4) == 2
    assert bench.refused(1) is DuplicateSequenceError
    assert bench.refused(LAST - 3, 2) is None, "one of the five"
    assert bench.send(2) == 6
    bench = Bench()
    bench.send(LAST)
    assert bench.refused(1) is OutOfOrderSequenceError
    assert bench.send(0) == 1


def test_a_run_longer_than_half_the_circle_is_told_from_the_future() -> None:
    bench = Bench()
    step = SEQUENCES // 8
    for number in range(12):
        bench.send(number * step % SEQUENCES, step)
    following = 12 * step % SEQUENCES
    assert bench.refused((following - 8) % SEQUENCES, 1) is DuplicateSequenceError
    assert bench.refused((following + 8) % SEQUENCES, 1) is OutOfOrderSequenceError


def test_a_newer_epoch_begins_at_0_and_shuts_out_the_older(reopened: bool) -> None:
    bench = Bench()
    bench.send(0, 5)
    assert bench.refused(5, epoch=1) is OutOfOrderSequenceError
    assert bench.send(0, 2, epoch=3) == 5
    if reopened:
        bench.reopen()
    assert bench.refused(5) is InvalidProducerEpochError
    assert bench.refused(0, 5) is InvalidProducerEpochError
    assert bench.send(0, 2, epoch=3) == 5
    assert bench.send(2, epoch=3) == 7


def test_producers_and_partitions_do_not_know_each_other() -> None:
    producers = Producers({}, 0)
    one = Sequenced(producer_id=1, epoch=0, first=0, count=1)
    for topic, partition in ((TOPIC, 0), (TOPIC, 1), ("11" * 16, 0)):
        assert producers.duplicate_of(topic, partition, one) is None
        list(producers.appended(topic, partition, one, 10 + partition, now_ms=0, now_monotonic_ms=0))
    assert producers.duplicate_of(TOPIC, 1, one) == Written(0, 0, 11, 0)
    assert len(producers) == 3


def test_rows_are_bounded_and_the_one_that_rested_longest_goes() -> None:
    bench = Bench()
    for producer_id in range(MAX_ROWS):
        bench.send(0, producer_id=producer_id)
    assert len(bench.rows) == MAX_ROWS
    bench.now_ms += 1
    bench.send(1, producer_id=0)
    bench.reopen()
    bench.send(0, producer_id=MAX_ROWS)
    assert len(bench.rows) == MAX_ROWS
    assert f"1/{TOPIC}/0" not in bench.rows
    assert f"0/{TOPIC}/0" in bench.rows


def test_a_producer_that_rests_for_a_day_is_forgotten(reopened: bool) -> None:
    bench = Bench()
    for producer_id in range(20):
        bench.send(0, producer_id=producer_id)
    bench.now_ms += EXPIRE_AFTER_MS - 1
    if reopened:
        bench.reopen()  # the day begins anew: how long the box was off is not known for certain
        bench.now_ms += EXPIRE_AFTER_MS - 1
    bench.send(1, producer_id=0)
    assert len(bench.rows) == 20
    bench.now_ms += 1
    for sequence in (2, 3, 4):
        bench.send(sequence, producer_id=0)
    assert list(bench.rows) == [f"0/{TOPIC}/0"]
    assert bench.refused(5, producer_id=1) is None, "forgotten: it may begin anywhere"


def test_against_a_model() -> None:
    """Whatever is sent, each sequence number of an epoch is appended at most once, and in order."""
    for seed in range(30):
        rng = random.Random(seed)
        bench, expected, log = Bench(), 0, []
        for _ in range(200):
            first = max(0, expected + rng.choice((0, 0, 0, -1, -2, -5, -20, 1, 3)))
            count = rng.randint(1, 4)
            offset = bench.offset
            if bench.refused(first, count) is None and bench.offset > offset:
                assert first == expected or not log
                log.extend(range(first, first + count))
                expected = first + count
            if rng.random() < 0.1:
                bench.reopen()
        assert log == list(range(log[0], log[0] + len(log)))


def test_ids_fit_a_double_and_do_not_repeat() -> None:
    ids = {new_producer().producer_id for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(0 <= one < 2**53 for one in ids)
    assert new_producer().epoch == 0
