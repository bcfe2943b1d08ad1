"""Answers come when what they say is durable, and they always come."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import TableChange, WriterState
from commitlog.reader import FileLogReader
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import Failures, RecordingWaiter, log_settings, open_log, opened, record
from tests.conftest import wait_until_async
from tests.log_fakes import FakeClock

pytestmark = pytest.mark.timeout(20)


class HeldDisk(MemoryDisk):
    """Holds one kind of call on one file until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.held = threading.Event()

    def hold(self, operation: str, name: str) -> None:
        def before(called: str, path: Path) -> None:
            if called == operation and path.name == name:
                self.held.set()
                assert self.go.wait(10)

        self.before = before


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_rows_are_seen_when_they_are_durable(tmp_path: Path) -> None:
    disk = HeldDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.append([], [TableChange(table="t", key="k", value=1)])
        disk.hold("sync", "journal")
        changing = asyncio.create_task(log.append([], [TableChange(table="t", key="k", value=2)]))
        await wait_until_async(disk.held.is_set, describe="the sync is under way")
        assert await log.rows("t") == {"k": 1}
        disk.go.set()
        await changing
        assert await log.rows("t") == {"k": 2}


async def test_a_roll_that_finds_nothing_waits_for_the_one_that_closed_it(tmp_path: Path) -> None:
    disk = HeldDisk()
    async with opened(tmp_path, storage=disk, settings=log_settings(flush_interval="1h")) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "d", "v")])
        disk.hold("rename", "checkpoint")
        first = asyncio.create_task(log.roll("telemetry", "test"))
        await wait_until_async(disk.held.is_set, describe="the window is being made durable")
        second = asyncio.create_task(log.roll("telemetry", "test"))
        await turns()
        assert not first.done()
        assert not second.done()
        disk.go.set()
        assert await first is not None
        assert await second is None


async def test_whoever_appends_to_a_closed_log_hears_that_it_failed(tmp_path: Path) -> None:
    log = await open_log(tmp_path, storage=MemoryDisk())
    await log.create_topic("telemetry", 1)
    partition = log.partitions("telemetry")[0]
    await log.close()
    waiter = RecordingWaiter()
    partition.append(log.now_ms(), b"d", b"v", [])
    log.appended(1, 10, waiter, "late")
    assert waiter.failed_tokens == ["late"]


async def test_a_failed_log_is_stale_to_readers(tmp_path: Path) -> None:
    """They must not take it for a log where nothing happens."""
    disk, clock, failures = MemoryDisk(), FakeClock(), Failures()
    settings = log_settings(commit_interval="0")
    log = await open_log(tmp_path, storage=disk, clock=clock, on_failure=failures, settings=settings)
    await log.create_topic("telemetry", 1)
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        await wait_until_async(lambda: reader.writer_state() is WriterState.LIVE, describe="the first heartbeat")
        disk.stop_at = disk.calls
        waiter = RecordingWaiter()
        log.partitions("telemetry")[0].append(log.now_ms(), b"d", b"v", [])
        log.appended(1, 10, waiter, "lost")
        await wait_until_async(lambda: failures, describe="the log fails")
        clock.now_ms += 10_000
        log._engine.heartbeat.tick()
        assert reader.writer_state() is WriterState.STALE
    assert waiter.failed_tokens == ["lost"]
    await log.close()
