"""No commit outgrows the journal, whatever its listeners think that their records weigh; what is atomic stays whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import NewRecord, TableChange
from commitlog.durability import Durability
from commitlog.embedded import EmbeddedLog
from commitlog.journal import Journal, decode_body
from commitlog.open_commit import OpenCommit
from commitlog.partition import Partition
from commitlog.settings import LogSettings
from core.errors import BadRequestError
from tests.commitlog.batch_support import client_batch
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import (
    Failures,
    RecordingWaiter,
    log_settings,
    open_log,
    opened,
    read_all,
    record,
    some_value,
)

pytestmark = pytest.mark.timeout(60)

LIMIT = log_settings().commit_limit_bytes


@pytest.fixture(name="bodies")
def _bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The journal entries that are written, each no longer than it may be."""
    bodies: list[bytes] = []
    write: Callable[..., Any] = Journal.write

    def noted(journal: Journal, body: bytes, *, sync: bool = True) -> Any:
        bodies.append(body)
        return write(journal, body, sync=sync)

    monkeypatch.setattr(Journal, "write", noted)
    yield bodies
    assert max(map(len, bodies), default=0) < LIMIT


def counts(bodies: list[bytes]) -> list[int]:
    """Records in each entry."""
    return [sum(int.from_bytes(batch.data[57:61], "big") for batch in decode_body(body)[0]) for body in bodies]


# -- the open end by itself


class Small(LogSettings):
    """A log whose commits hold less than settings allow."""

    @property
    def commit_limit_bytes(self) -> int:
        return 16_000


@pytest.mark.parametrize("seed", range(30))
def test_pieces_hold_everything_once_in_order_and_no_more_than_they_may(seed: int) -> None:
    """Records, batches and wholes of all sizes, taken at any time; flushes end where commits end."""
    rng = random.Random(seed)
    cuts: list[int] = []
    room = OpenCommit(Small(), lambda: cuts.append(1))
    partitions = [Partition("t", bytes(16), index, 0, room) for index in range(rng.choice((1, 3, 40)))]
    room.share(len(partitions))
    given: dict[int, list[bytes]] = {p.index: [] for p in partitions}
    committed: dict[int, int] = dict.fromkeys(given, 0)
    flushed: dict[int, int] = dict.fromkeys(given, 0)
    wholes: list[set[tuple[int, int]]] = []

    def put(size: int) -> tuple[int, int]:
        partition = rng.choice(partitions)
        value = rng.randbytes(size)
        given[partition.index].append(value)
        if rng.random() < 0.1:
            return partition.index, partition.append_ready(client_batch([value]), 1)
        return partition.index, partition.append(1_000, b"k", value, [])

    def take() -> bool:
        waiting = len(cuts)
        taken = room.take()
        size_bytes = 0
        there: set[tuple[int, int]] = set()
        for one in taken.batches:
            assert one.base_offset == committed[one.partition.index]
            committed[one.partition.index] += one.count
            there |= {(one.partition.index, one.base_offset + n) for n in range(one.count)}
            size_bytes += len(one.build(1)) + 25
        assert size_bytes <= taken.size_bytes <= 15_000
        assert all(whole <= there or not whole & there for whole in wholes)
        del cuts[: taken.pieces]
        assert taken.rest or not cuts
        assert taken.pieces or not waiting
        if rng.random() < 0.5:
            for one in room.take_segment_batches():
                assert one.base_offset == flushed[one.partition.index]
                flushed[one.partition.index] += one.count
            assert flushed == committed, "a flush ends where its commit ends"
        return taken.rest

    for _ in range(300):
        what = rng.random()
        if what < 0.75:
            put(rng.choice((0, 0, 1, 40, 300)) if rng.random() < 0.95 else rng.randrange(14_000))
        elif what < 0.85:
            sizes = [rng.choice((0, 10, 500)) for _ in range(rng.randrange(1, 6))]
            with room.whole(len(sizes), sum(sizes) + 64 * len(sizes)):
                wholes.append({put(size) for size in sizes})
        else:
            take()
    while take():
        pass
    assert room.empty
    assert committed == {index: len(values) for index, values in given.items()}


def test_a_record_that_no_commit_holds_is_refused_before_anything_has_changed() -> None:
    room = OpenCommit(Small(), lambda: None)
    partition = Partition("t", bytes(16), 0, 0, room)
    for _ in range(2):
        with pytest.raises(BadRequestError, match="bytes in one record"):
            partition.append(1_000, None, bytes(16_086 - 86 - 12), [])
    with pytest.raises(BadRequestError):
        partition.append_ready(bytes(15_000), 1)
    assert room.empty
    assert partition.append(1_000, None, b"", []) == 0
    (taken,) = room.take().batches
    assert (taken.base_offset, taken.count) == (0, 1)


def test_a_record_in_every_partition_is_no_reason_to_cut() -> None:
    cuts: list[int] = []
    settings = LogSettings()
    room = OpenCommit(settings, lambda: cuts.append(1))
    partitions = [Partition("t", bytes(16), index, 0, room) for index in range(64 * 256)]
    room.share(len(partitions))
    for partition in partitions:
        partition.append(1_000, b"k", b"v" * 100, [])
    assert not cuts
    assert len(room.take().batches) == len(partitions)


# -- the log with the smallest journal that settings allow


async def test_a_flood_of_the_smallest_records_whose_sizes_are_told_wrong(tmp_path: Path, bodies: list[bytes]) -> None:
    """What a chunk of 5-byte packets brings, each told to take one byte, and nobody minds congestion."""
    disk = MemoryDisk()
    waiter = RecordingWaiter()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 3)
        partitions = log.partitions("telemetry")
        headers: list[Any] = [("mqtt.topic", b"a"), ("device", b""), ("mqtt.qos", b"0")]
        for chunk in range(4):
            for number in range(52_000):
                partitions[number % 3].append(log.now_ms(), b"a", b"", headers)
            log.appended(52_000, 52_000, waiter, chunk)
        assert log.congested
        async with asyncio.timeout(40):
            await log.drain()
        assert waiter.committed_tokens == [0, 1, 2, 3]
        assert not log.congested
        assert len(bodies) > 5
        assert log.stats.syncs >= log.stats.commits == len(bodies)
    assert sum(map(len, read_all(tmp_path, disk).values())) == 208_000


async def test_far_more_than_was_allowed_is_committed_in_parts_that_fit(tmp_path: Path, bodies: list[bytes]) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        waiter = RecordingWaiter()
        for _ in range(20):
            partition.append(log.now_ms(), b"a", bytes(1 << 20), [])
        log.appended(20, 20, waiter, "huge")
        async with asyncio.timeout(20):
            await log.drain()
        assert waiter.committed_tokens == ["huge"]
        assert counts(bodies) == [1] * 20
    assert [offset for offset, _ in read_all(tmp_path, disk)["telemetry", 0]] == list(range(20))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_appended_commits_fit_and_wholes_stay_whole(
    tmp_path: Path, bodies: list[bytes], seed: int
) -> None:
    """Floods, appends with rows, batches of idempotent producers and rolls at once; then what is there after a kill."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk)
    await log.create_topic("telemetry", 3)
    partitions = log.partitions("telemetry")
    waiter = RecordingWaiter()
    calls: list[asyncio.Future[Any]] = []
    for turn in range(12):
        for number in range(rng.choice((1, 500, 12_000))):
            rng.choice(partitions).append(log.now_ms(), None, b"%d.%d" % (turn, number), [])
        if rng.random() < 0.5:
            rng.choice(partitions).append(log.now_ms(), None, rng.randbytes(1_200_000), [])
        log.appended(1, 1, waiter, turn)
        records = [record("telemetry", f"k{n}", some_value(rng)) for n in range(rng.randrange(8))]
        row = TableChange(table="rows", key=str(turn), value=len(records))
        batch = client_batch([b"b%d" % turn] * 3, producer=(7, 0, 3 * turn))
        calls += map(
            asyncio.ensure_future,
            (log.append(records, [row]), log.append_batch("telemetry", 1, batch), log.roll("telemetry", "test")),
        )
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        results = await asyncio.gather(*calls)
        await log.drain()
    assert waiter.committed_tokens == list(range(12))
    windows = [window for window in results[2::3] if window is not None]
    assert [window.number for window in windows] == sorted(window.number for window in windows)
    for body in bodies:
        batches, changes = decode_body(body)
        for table, key, _ in changes:
            if table == "producers":
                assert key.startswith("7/")
                assert any(b"b" in bytes(batch.data) for batch in batches if batch.partition == 1)
    disk.stop_at = disk.calls
    await log.close()
    disk.revive(power_cut=rng)
    async with opened(tmp_path, storage=disk) as log:
        assert not log.report.cuts
        found = read_all(tmp_path, disk)
        for positions in results[0::3]:
            there = {(p.partition, p.offset) for p in positions}
            assert there <= {(at[1], offset) for at, pairs in found.items() for offset, _ in pairs}
        assert dict(await log.rows("rows")) == {str(turn): len(results[3 * turn]) for turn in range(12)}
        again = await log.append_batch("telemetry", 1, client_batch([b"b11"] * 3, producer=(7, 0, 33)))
        assert again == results[3 * 11 + 1]


async def test_records_and_rows_of_one_append_are_in_one_entry(tmp_path: Path, bodies: list[bytes]) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 3)
        (partition, *_) = log.partitions("telemetry")
        partition.append(log.now_ms(), None, bytes(1_300_000), [])  # nearly what a commit may hold
        log.appended(1, 1)
        records = [NewRecord(topic="telemetry", key=b"%d" % n, value=bytes(100_000)) for n in range(4)]
        await log.append(records, [TableChange(table="rows", key="k", value=bytes(50_000))])
    assert counts(bodies) == [1, 4]
    assert [len(decode_body(body)[1]) for body in bodies] == [0, 1]


async def test_a_window_waits_for_the_commit_that_holds_the_last_of_it(tmp_path: Path, bodies: list[bytes]) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        for _ in range(4):
            partition.append(log.now_ms(), None, bytes(1 << 20), [])
        log.appended(4, 1)
        window = await log.roll("telemetry", "test")
        assert window is not None
        assert window.offsets == {0: (0, 4)}
        assert [bool(decode_body(body)[1]) for body in bodies] == [False, False, False, True]
        with pytest.raises(BadRequestError, match="reason"):
            await log.roll("telemetry", "r" * 201)


async def test_what_nobody_has_said_a_level_for_yet_is_synced(tmp_path: Path) -> None:
    """A piece is cut in the midst of a chunk whose level is told at its end."""
    async with opened(tmp_path, storage=MemoryDisk(), settings=log_settings(durability="os")) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "weak levels are noted in a checkpoint first")])
        await log._engine.segment_thread.run(lambda: None)
        (partition,) = log.partitions("telemetry")
        for _ in range(3):
            partition.append(log.now_ms(), None, bytes(1 << 20), [])
        log.appended(3, 1, durability=Durability.FSYNC)
        await log.drain()
        assert log.stats.unsynced_records == 0


async def test_when_the_disk_fails_everybody_hears_of_it_pieces_included(tmp_path: Path) -> None:
    disk, failures = MemoryDisk(), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 1)
    waiter = RecordingWaiter()

    def flood(log: EmbeddedLog) -> None:
        (partition,) = log.partitions("telemetry")
        for number in range(6):
            partition.append(log.now_ms(), None, bytes(1 << 20), [])
            log.appended(1, 1, waiter, number)

    disk.stop_at = disk.calls
    flood(log)
    await log.drain()
    assert waiter.failed_tokens == list(range(6))
    assert not waiter.committed_tokens
    await log.close()
    assert len(failures) == 1
