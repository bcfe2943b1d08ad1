"""What listeners are promised by `Appender`: rows of state tables in the same commit as the record they belong to."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import Header
from commitlog.embedded import EmbeddedLog
from commitlog.journal import Journal, decode_body
from core.errors import BadRequestError, UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import Failures, RecordingWaiter, log_settings, open_log, opened, read_all

pytestmark = pytest.mark.timeout(60)

LIMIT = log_settings().commit_limit_bytes
NO_HEADERS: list[Header] = []


@pytest.fixture(name="bodies")
def _bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The journal entries that are written, each no longer than it may be."""
    bodies: list[bytes] = []
    write: Callable[..., Any] = Journal.write

    def noted(journal: Journal, body: bytes, *, sync: bool = True) -> Any:
        bodies.append(bytes(body))
        return write(journal, body, sync=sync)

    monkeypatch.setattr(Journal, "write", noted)
    yield bodies
    assert max(map(len, bodies), default=0) < LIMIT


class Places:
    """A queue as the MQTT server has them: it notes the offsets appended, and writes them when a commit is closed."""

    def __init__(self, log: EmbeddedLog) -> None:
        self.noted: list[tuple[int, int]] = []
        self.waiter = RecordingWaiter()
        self.closed: list[list[tuple[int, int]]] = []
        self.cuts = 0
        self._log = log
        log.before_commit(self.prepare)

    def put(self, partition: int, value: bytes) -> None:
        """Append a record whose place is to be in the row of the same commit."""
        closed = len(self.closed)
        self._log.reserve(400)
        where = self._log.partitions("telemetry")[partition]
        offset = where.append(self._log.now_ms(), None, value, NO_HEADERS)
        self.cuts += len(self.closed) - closed
        self.noted.append((partition, offset))

    def prepare(self) -> None:
        if self.noted:
            noted, self.noted = self.noted, []
            for partition, offset in noted:
                self._log.change_reserved(("places", f"{partition}/{offset}", len(self.closed)))
            self.closed.append(noted)
            self._log.join(self.waiter, noted)


def records_and_rows(body: bytes) -> tuple[set[str], set[str]]:
    """The places of an entry's records, and those that its rows name."""
    batches, changes = decode_body(body)
    records: set[str] = set()
    for batch in batches:
        base, count = int.from_bytes(batch.data[:8], "big"), int.from_bytes(batch.data[57:61], "big")
        records |= {f"{batch.partition}/{base + number}" for number in range(count)}
    return records, {key for table, key, _ in changes if table == "places"}


# -- rows


async def test_rows_now_are_the_durable_ones(tmp_path: Path) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        assert log.rows_now("t") == {}
        log.change(("t", "a", 1), 20)
        log.change(("t", "b", [2, b"\xff", None]), 20)
        log.appended(1, 40)
        assert log.rows_now("t") == {}
        await log.drain()
        assert log.rows_now("t") == {"a": 1, "b": [2, b"\xff", None]}
        log.change(("t", "a", None), 20)
        log.appended(1, 20)
        await log.drain()
        assert log.rows_now("t") == {"b": [2, b"\xff", None]} == await log.rows("t")


async def test_changes_without_records_are_a_commit_that_is_waited_for(tmp_path: Path, bodies: list[bytes]) -> None:
    waiter = RecordingWaiter()
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        log.change(("t", "a", 1), 20)
        log.appended(1, 20, waiter, "told")
        assert waiter.committed_tokens == []
        await log.drain()
        assert waiter.committed_tokens == ["told"]
        assert [decode_body(body)[1] for body in bodies] == [[("t", "a", 1)]]


async def test_what_is_whole_is_one_commit_wherever_a_cut_falls(tmp_path: Path, bodies: list[bytes]) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 2)
        partitions = log.partitions("telemetry")
        bodies.clear()
        for filling in range(0, LIMIT, LIMIT // 23):
            partitions[0].append(log.now_ms(), None, bytes(filling // 2), NO_HEADERS)
            with log.whole(2, 60_000, 100):
                log.change_reserved(("places", f"1/{partitions[1].next_offset}", filling))
                log.change_reserved(("places", f"1/{partitions[1].next_offset + 1}", filling))
                partitions[1].append(log.now_ms(), None, bytes(30_000), NO_HEADERS)
                partitions[1].append(log.now_ms(), None, bytes(30_000), NO_HEADERS)
            log.appended(3, 1)
        await log.drain()
        assert len(bodies) > 5
        for body in bodies:
            records, rows = records_and_rows(body)
            assert {place for place in records if place.startswith("1/")} == rows


# -- before_commit, join, reserve


@pytest.mark.parametrize("seed", range(8))
async def test_what_prepare_gives_is_in_the_commit_of_the_records_that_it_was_for(
    tmp_path: Path, bodies: list[bytes], seed: int
) -> None:
    """Trickles, floods that are cut, records next to the largest, commits at any time."""
    rng = random.Random(seed)
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 3)
        bodies.clear()
        places = Places(log)
        count = 0
        for _ in range(40):
            for _ in range(rng.choice((1, 3, 3, 600, 4_000))):
                big = rng.random() < 0.002
                places.put(rng.randrange(3), bytes(rng.randrange(500_000, 900_000) if big else rng.randrange(60)))
                count += 1
            log.appended(1, rng.choice((1, 400_000)))
            if rng.random() < 0.4:
                await log.drain()
        await log.drain()
        assert count == sum(map(len, places.closed))
        for body in bodies:
            records, rows = records_and_rows(body)
            assert records == rows
        assert places.waiter.committed_tokens == places.closed, "each is told once, in order"
        assert not places.waiter.failed_tokens
        assert places.cuts, "the seed has brought cuts"
        found = {f"{p}/{offset}" for p in range(3) for offset in range(log.partitions("telemetry")[p].next_offset)}
        assert set(log.rows_now("places")) == found


async def test_everybody_who_prepares_is_called_each_time_in_order(tmp_path: Path) -> None:
    calls: list[str] = []
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        log.before_commit(lambda: calls.append("first"))
        log.before_commit(lambda: calls.append("second"))
        for _ in range(2):
            log.partitions("telemetry")[0].append(log.now_ms(), None, b"", NO_HEADERS)
            log.appended(1, 1)
            await log.drain()
        assert calls[:4] == ["first", "second", "first", "second"]


async def test_who_joined_hears_of_a_failure_and_of_nothing_else(tmp_path: Path) -> None:
    disk, failures = MemoryDisk(), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 1)
    places = Places(log)
    disk.stop_at = disk.calls
    places.put(0, b"never durable")
    log.appended(1, 1)
    await log.drain()
    assert places.waiter.failed_tokens == [[(0, 0)]]
    assert not places.waiter.committed_tokens
    assert log.rows_now("places") == {}
    await log.close()
    assert len(failures) == 1


async def test_reserve_refuses_what_no_commit_holds_and_changes_nothing(tmp_path: Path, bodies: list[bytes]) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        bodies.clear()
        for call in (log.reserve, lambda size: log.change(("t", "a", 1), size)):
            with pytest.raises(BadRequestError, match="in changes of tables"):
                call(LIMIT)
        assert not log.congested
        log.partitions("telemetry")[0].append(log.now_ms(), None, b"", NO_HEADERS)
        log.appended(1, 1)
        await log.drain()
        assert len(bodies) == 1
        assert not decode_body(bodies[0])[1]


async def test_what_is_reserved_counts_and_is_cut_before_it_is_too_much(tmp_path: Path, bodies: list[bytes]) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        bodies.clear()
        size = LIMIT // 5
        rows: list[Any] = []

        def prepare() -> None:
            for number in rows:
                log.change_reserved(("t", str(number), bytes(size - 50)))
            rows.clear()

        log.before_commit(prepare)
        for number in range(20):
            log.reserve(size)
            rows.append(number)
            log.partitions("telemetry")[0].append(log.now_ms(), None, b"%d" % number, NO_HEADERS)
            log.appended(1, 1)
        await log.drain()
        assert len(bodies) >= 5
        assert sorted(log.rows_now("t"), key=int) == [str(number) for number in range(20)]


async def test_what_is_reserved_for_a_record_that_makes_a_cut_is_counted_behind_it(
    tmp_path: Path, bodies: list[bytes]
) -> None:
    """Three parts reserve for one record: their rows are in its commit, which is no longer than it may be."""
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        rows: list[int] = []

        def prepare() -> None:
            for number in rows:
                log.change_reserved(("t", str(number), bytes(150_000)))
            rows.clear()

        log.before_commit(prepare)
        partition.append(log.now_ms(), None, bytes(LIMIT - 1_100_000), NO_HEADERS)
        for _ in range(3):
            log.reserve(151_000)
        partition.append(log.now_ms(), None, bytes(700_000), NO_HEADERS)  # for which the piece has no more room
        rows += [1, 2, 3]
        for _ in range(7):
            partition.append(log.now_ms(), None, bytes(100_000), NO_HEADERS)
        log.appended(9, 1)
        await log.drain()
        (entry,) = [body for body in bodies if any(table == "t" for table, _, _ in decode_body(body)[1])]
        assert decode_body(entry)[0][0].data[:8] == (1).to_bytes(8, "big")
        assert sorted(log.rows_now("t")) == ["1", "2", "3"]


# -- killed at every call


async def run(log: EmbeddedLog) -> Places:
    """Records by two ways, each with its row; the last of them in flight when the log is let go."""
    await log.create_topic("telemetry", 2)
    places = Places(log)
    for turn in range(3):
        for _ in range(3):
            places.put(turn % 2, b"%d" % turn)
        with log.whole(1, 100, 100):
            partition = log.partitions("telemetry")[1]
            log.change_reserved(("places", f"1/{partition.next_offset}", -1))
            partition.append(log.now_ms(), None, b"whole", NO_HEADERS)
        log.appended(4, 100)
        await log.drain()
    return places


async def steps(tmp_path: Path) -> tuple[int, int]:
    """The first and the last storage call of `run`."""
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk)
    first = disk.calls
    await run(log)
    await log.close()
    return first, disk.calls


@pytest.mark.parametrize("power_cut", [False, True])
async def test_a_record_and_its_row_are_both_there_or_neither_after_a_kill_at_any_call(
    tmp_path: Path, *, power_cut: bool
) -> None:
    first, last = await steps(tmp_path / "counted")
    died = 0
    for call in range(first, last):
        data_dir = tmp_path / str(call)
        disk, failures = MemoryDisk(), Failures()
        log = await open_log(data_dir, storage=disk, on_failure=failures)
        disk.stop_at = call
        places: Places | None = None
        with contextlib.suppress(UnavailableError):
            places = await run(log)
        await log.close()
        died += disk.calls >= call
        disk.revive(power_cut=random.Random(call) if power_cut else None)
        async with opened(data_dir, storage=disk) as log:
            assert not log.report.cuts
            there = {f"{at[1]}/{offset}" for at, pairs in read_all(data_dir, disk).items() for offset, _ in pairs}
            assert set(log.rows_now("places")) == there, f"killed at call {call}"
            told = places.waiter.committed_tokens if places is not None else []
            assert {f"{p}/{offset}" for token in told for p, offset in token} <= there
    assert died > 0.9 * (last - first), "flushes come by time: not every run makes as many calls as the first"
