"""Group commit under load: congestion ends, the journal wraps, waiters hear in order, closing waits for everything."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from commitlog.embedded import EmbeddedLog
from core.errors import UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import Failures, RecordingWaiter, log_settings, open_log, opened, read_all, record

pytestmark = pytest.mark.timeout(30)


class Pump:
    """A listener that always has more: appends chunks until it is told to stop reading, and reads on when told so."""

    def __init__(self, log: EmbeddedLog, rng: random.Random, chunks: int, chunk_bytes: int) -> None:
        self.log = log
        self.partitions = log.partitions("telemetry")
        self.rng = rng
        self.left = chunks
        self.size = chunk_bytes
        self.sent: list[tuple[int, int]] = []
        self.heard: list[tuple[int, int]] = []
        self.held_back = 0
        self.done = asyncio.Event()

    def pump(self) -> None:
        while self.left:
            if self.log.congested:
                self.held_back += 1
                self.log.when_clear(self.pump)
                return
            self.left -= 1
            partition = self.rng.choice(self.partitions)
            payload = self.rng.randbytes(self.size)
            offset = partition.append(self.log.now_ms(), b"k", payload, [])
            self.sent.append((partition.index, offset))
            self.log.appended(1, self.size, self, (partition.index, offset))

    def committed(self, token: Any) -> None:
        self.heard.append(token)
        if not self.left and len(self.heard) == len(self.sent):
            self.done.set()

    def failed(self, token: Any) -> None:
        raise AssertionError(f"{token} failed")


async def test_congestion_ends_and_the_journal_wraps(tmp_path: Path) -> None:
    """20 MB through a journal of 4 MB, as fast as it goes; with the smallest settings there are."""
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 3)
        pumps = [Pump(log, random.Random(number), 50, 100_000) for number in range(4)]
        for pump in pumps:
            pump.pump()
        async with asyncio.timeout(20):
            for pump in pumps:
                await pump.done.wait()
        assert all(pump.heard == pump.sent for pump in pumps)
        assert sum(pump.held_back for pump in pumps) > 5
        assert log.journal_bytes_written > 4 * (4 << 20)
        assert log.checkpoints > 3
        assert not log.congested
    found = {(at[1], offset) for at, pairs in read_all(tmp_path, disk).items() for offset, _ in pairs}
    assert found == {one for pump in pumps for one in pump.sent}


async def test_a_kill_after_wrapping_loses_nothing_acknowledged(tmp_path: Path) -> None:
    disk, failures = MemoryDisk(), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 2)
    rng = random.Random(5)
    acknowledged: dict[tuple[str, int, int], bytes] = {}

    async def produce() -> None:
        while True:
            value = rng.randbytes(rng.choice((10, 60_000, 200_000)))
            (one,) = await log.append([record("telemetry", None, value, partition=rng.randrange(2))])
            acknowledged[one.topic, one.partition, one.offset] = value
            if log.journal_bytes_written > 9 << 20:
                disk.stop_at = disk.calls + 7

    results = await asyncio.gather(*(produce() for _ in range(6)), return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    await log.close()
    disk.revive(power_cut=rng)
    log = await open_log(tmp_path, storage=disk)
    found = {(t, p, offset): value for (t, p), pairs in read_all(tmp_path, disk).items() for offset, value in pairs}
    assert acknowledged.items() <= found.items()
    await log.close()


async def test_waiters_hear_once_and_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        waiter = RecordingWaiter()
        for number in range(200):
            log.partitions("telemetry")[0].append(log.now_ms(), b"k", b"v", [])
            log.appended(1, 10, waiter, number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await log.drain()
        assert waiter.committed_tokens == list(range(200))


async def test_a_waiter_s_bug_does_not_keep_others_from_their_answers(tmp_path: Path) -> None:
    class Broken(RecordingWaiter):
        def committed(self, token: Any) -> None:
            raise RuntimeError("a bug")

    async with opened(tmp_path, storage=MemoryDisk()) as log:
        await log.create_topic("telemetry", 1)
        waiter = RecordingWaiter()
        for number, one in enumerate((waiter, Broken(), waiter)):
            log.partitions("telemetry")[0].append(log.now_ms(), b"k", b"v", [])
            log.appended(1, 10, one, number)
        async with asyncio.timeout(5):
            await log.drain()
        assert waiter.committed_tokens == [0, 2]


async def test_nothing_is_acknowledged_before_its_sync(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        waiter = RecordingWaiter()
        told_at_sync: list[int] = []

        def before(operation: str, path: Path) -> None:
            if operation == "sync" and path.name == "journal":
                told_at_sync.append(len(waiter.committed_tokens))

        disk.before = before
        for number in range(5):
            log.partitions("telemetry")[0].append(log.now_ms(), b"k", b"v", [])
            log.appended(1, 10, waiter, number)
            await log.drain()
        assert told_at_sync == [0, 1, 2, 3, 4]
        assert log.stats.unsynced_records == 0


async def test_closing_waits_for_everything_open(tmp_path: Path) -> None:
    disk, failures = MemoryDisk(), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures, settings=log_settings(commit_interval="10s"))
    await log.create_topic("telemetry", 1)
    waiter = RecordingWaiter()
    log.partitions("telemetry")[0].append(log.now_ms(), b"k", b"v", [])
    log.appended(1, 10, waiter, "open")
    rolling = asyncio.create_task(log.roll("telemetry", "test"))
    appending = asyncio.create_task(log.append([record("telemetry", "a", "w")]))
    await asyncio.sleep(0)
    await log.close()
    assert waiter.committed_tokens == ["open"]
    window = await rolling
    assert window is not None
    assert (await appending)[0].offset == 1
    assert not failures
    again = await open_log(tmp_path, storage=disk)
    assert (again.report.clean, again.report.entries_replayed) == (True, 0)
    assert read_all(tmp_path, disk) == {("telemetry", 0): [(0, b"v"), (1, b"w")]}
    await again.close()


async def test_a_commit_starts_by_count_before_its_interval(tmp_path: Path) -> None:
    settings = log_settings(commit_interval="10s", commit_records=4)
    async with opened(tmp_path, storage=MemoryDisk(), settings=settings) as log:
        await log.create_topic("telemetry", 1)
        async with asyncio.timeout(5):
            await asyncio.gather(*(log.append([record("telemetry", "a", "v")]) for _ in range(4)))
        assert log.stats.commits == 1


async def test_flushing_sets_what_is_idle_free(tmp_path: Path) -> None:
    """What is committed becomes readable without anything else having to happen."""
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "v")])
        async with asyncio.timeout(5):
            while not read_all(tmp_path, disk):
                await asyncio.sleep(0)


async def test_a_window_s_own_bytes_do_not_count_towards_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path, settings=log_settings(flush_interval="1h")) as log:
        await log.create_topic("t")
        await log.append([record("t", "k", bytes(1000))])
        assert await log.roll("t", "test") is not None
        assert log.bytes_since_roll("t") == 0
