"""When the disk refuses: whoever waits hears of it, nothing is acknowledged any more, and nobody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import NewRecord, TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.journal import JournalFullError
from core.errors import BadRequestError, UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import Failures, RecordingWaiter, log_settings, open_log, read_all, record

pytestmark = pytest.mark.timeout(20)

EIO = OSError(errno.EIO, "input/output error")
FULL = OSError(errno.ENOSPC, "no space left on device")


class FailingDisk(MemoryDisk):
    """Refuses one kind of call on one kind of file from `fail` on, so many times."""

    def fail(self, operation: str, name: str, *, error: OSError = EIO, times: int = 1 << 30) -> None:
        left = iter(range(times))

        def before(called: str, path: Path) -> None:
            if called == operation and path.name.endswith(name) and next(left, None) is not None:
                raise error

        self.before = before


class HeldDisk(FailingDisk):
    """Holds the journal's next sync until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.held = threading.Event()

    def hold(self) -> None:
        self.before = self._wait

    def _wait(self, called: str, path: Path) -> None:
        if called == "sync" and path.name == "journal":
            self.held.set()
            assert self.go.wait(10)
            raise EIO


class Box:
    def __init__(self, log: EmbeddedLog, disk: HeldDisk, failures: Failures, data_dir: Path) -> None:
        self.log = log
        self.disk = disk
        self.failures = failures
        self.data_dir = data_dir

    async def recovered(self) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
        """What a new life finds."""
        self.disk.before = None
        log = await open_log(self.data_dir, storage=self.disk)
        found = read_all(self.data_dir, self.disk)
        await log.close()
        return found


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    disk, failures = HeldDisk(), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "a", "first")])
    yield Box(log, disk, failures, tmp_path)
    disk.go.set()
    async with asyncio.timeout(10):
        await log.close()


@pytest.mark.parametrize("operation", ["write", "sync"])
async def test_journal_failure_fails_every_waiter_and_all_after_them(box: Box, operation: str) -> None:
    waiter = RecordingWaiter()
    box.disk.fail(operation, "journal")
    box.log.partitions("telemetry")[0].append(box.log.now_ms(), b"a", b"second", [])
    box.log.appended(1, 10, waiter, "flying")
    with pytest.raises(UnavailableError):
        await box.log.append([record("telemetry", "a", "third")])
    box.log.appended(1, 10, waiter, "after")
    assert waiter.failed_tokens == ["flying", "after"]
    assert not waiter.committed_tokens
    assert box.failures == [EIO]
    with pytest.raises(UnavailableError, match="has failed"):
        await box.log.append([record("telemetry", "a", "fourth")])
    with pytest.raises(UnavailableError, match="has failed"):
        await box.log.roll("telemetry", "test")
    with pytest.raises(UnavailableError, match="has failed"):
        await box.log.create_topic("other")
    await box.log.close()
    assert (await box.recovered())["telemetry", 0][0] == (0, b"first")


@pytest.mark.parametrize("name", [".log", "checkpoint.tmp", ".snapshot.tmp"])
async def test_failure_behind_the_journal_loses_nothing_acknowledged(box: Box, name: str) -> None:
    box.disk.fail("write", name)
    acknowledged = [b"first"]

    async def append_until_refused() -> None:
        for number in range(10_000):  # the segment thread fails behind one of these, or at the roll
            await box.log.append([record("telemetry", "a", f"v{number}")])
            acknowledged.append(b"v%d" % number)
            if number == 20:
                await box.log.roll("telemetry", "test")

    with pytest.raises(UnavailableError):
        await append_until_refused()
    await box.log.close()
    assert box.failures == [EIO]
    found = [value for _, value in (await box.recovered())["telemetry", 0]]
    assert found[: len(acknowledged)] == acknowledged


CHECKPOINT_CALLS = [
    ("write", "checkpoint.tmp"),
    ("sync", "checkpoint.tmp"),
    ("rename", "checkpoint"),
    ("sync_dir", "log"),
]


async def until_refused(box: Box, acknowledged: list[bytes]) -> None:
    """Append, with a checkpoint behind the first of it, until the log has failed."""
    rolled = asyncio.create_task(box.log.roll("telemetry", "a checkpoint"))
    with contextlib.suppress(UnavailableError):
        while len(acknowledged) < 10_000:
            value = b"v%d" % len(acknowledged)
            await box.log.append([record("telemetry", "a", value)])
            acknowledged.append(value)
    with pytest.raises(UnavailableError):
        await rolled


@pytest.mark.parametrize("call", CHECKPOINT_CALLS, ids=" ".join)
async def test_a_checkpoint_that_fails_loses_nothing(box: Box, call: tuple[str, str]) -> None:
    """EIO from its write, its sync, its rename, the sync of its name: the log fails as a whole, and comes back."""
    acknowledged = [b"first"]
    box.disk.fail(*call)
    await until_refused(box, acknowledged)
    await box.log.close()
    assert box.failures == [EIO]
    found = await box.recovered()
    assert [value for _, value in found["telemetry", 0]][: len(acknowledged)] == acknowledged


@pytest.mark.parametrize("call", [CHECKPOINT_CALLS[1], CHECKPOINT_CALLS[3]], ids=" ".join)
async def test_a_checkpoint_whose_sync_finds_no_space_fails_the_log(box: Box, call: tuple[str, str]) -> None:
    """Space that a file system promised and then does not have: what was written may be gone, so nothing is retried."""
    acknowledged = [b"first"]
    box.disk.fail(*call, error=FULL)
    await until_refused(box, acknowledged)
    await box.log.close()
    assert box.failures == [FULL]
    found = await box.recovered()
    assert [value for _, value in found["telemetry", 0]][: len(acknowledged)] == acknowledged


@pytest.mark.parametrize("call", [CHECKPOINT_CALLS[0], CHECKPOINT_CALLS[2]], ids=" ".join)
async def test_a_checkpoint_that_finds_no_space_takes_the_reserve(box: Box, call: tuple[str, str]) -> None:
    box.disk.fail(*call, error=FULL, times=1)
    checkpoints = box.log.checkpoints
    window = await box.log.roll("telemetry", "a checkpoint")
    assert window is not None
    assert box.log.checkpoints > checkpoints
    assert box.failures == []


async def test_roll_under_way_is_failed(box: Box) -> None:
    await box.log.drain()
    box.disk.hold()
    rolling = asyncio.create_task(box.log.roll("telemetry", "test"))
    await asyncio.to_thread(box.disk.held.wait, 10)
    later = asyncio.create_task(box.log.roll("telemetry", "again"))
    await asyncio.sleep(0)
    box.disk.go.set()
    for roll in (rolling, later):
        with pytest.raises(UnavailableError):
            await roll


async def test_topics_being_made_are_failed(box: Box) -> None:
    box.disk.fail("write", "partition.metadata.tmp")
    results = await asyncio.gather(box.log.create_topic("one"), box.log.create_topic("two"), return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)


async def test_appends_held_back_by_congestion_are_failed(box: Box) -> None:
    box.disk.hold()
    half_full = b"x" * 200_000
    appends = [asyncio.create_task(box.log.append([record("telemetry", "a", half_full)])) for _ in range(20)]
    await asyncio.to_thread(box.disk.held.wait, 10)
    await asyncio.sleep(0)
    assert box.log.congested
    box.disk.go.set()
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)


async def test_an_append_that_finds_the_failed_log_congested_does_not_wait_for_ever(box: Box) -> None:
    """Changes of tables alone pass the check for room: nothing else would have told them."""
    box.disk.hold()
    half_full = b"x" * 200_000
    appends = [asyncio.create_task(box.log.append([record("telemetry", "a", half_full)])) for _ in range(20)]
    await asyncio.to_thread(box.disk.held.wait, 10)
    box.disk.go.set()
    await asyncio.gather(*appends, return_exceptions=True)
    assert box.log.congested
    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError, match="has failed"):
            await box.log.append([], [TableChange(table="t", key="k", value=1)])


async def test_close_hears_of_a_failing_last_flush(tmp_path: Path) -> None:
    disk, failures = FailingDisk(), Failures()
    settings = log_settings(flush_interval="1h")
    log = await open_log(tmp_path, storage=disk, on_failure=failures, settings=settings)
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "a", "v")])
    disk.fail("write", ".log")
    async with asyncio.timeout(10):
        await log.close()
    assert failures == [EIO]
    disk.before = None
    again = await open_log(tmp_path, storage=disk)
    assert again.report.records_replayed == 1
    assert not again.report.clean
    await again.close()


async def test_an_entry_that_can_never_fit_the_journal_is_not_waited_for(box: Box) -> None:
    """A commit larger than any may be is a bug of the log's: it fails, it does not hang."""
    journal = box.log._engine.journal
    with pytest.raises(JournalFullError, match="does not fit"):
        journal.wait_for_room(5 << 20)


HEADER_BOMB = NewRecord(topic="telemetry", key=b"a", value=b"", headers=[("h", bytes(1 << 20))])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ([HEADER_BOMB], []), id="large-headers"),
        pytest.param(lambda: ([], [TableChange(table="t", key="k", value=bytes(1 << 20))]), id="large-row"),
        pytest.param(lambda: ([record("telemetry", "a", bytes(1 << 20))], []), id="large-value"),
        pytest.param(lambda: ([], [TableChange(table="t", key="k", value=object())]), id="row-msgpack-cannot-carry"),
        pytest.param(lambda: ([], [TableChange(table="t", key="\ud800", value=1)]), id="row-key-not-utf-8"),
        pytest.param(lambda: ([odd(headers=[("h", "text")])], []), id="header-value-not-bytes"),
        pytest.param(lambda: ([odd(headers=[("\ud800", b"")])], []), id="header-name-not-utf-8"),
        pytest.param(lambda: ([odd(key="text")], []), id="key-not-bytes"),
        pytest.param(lambda: ([odd(value="text")], []), id="value-not-bytes"),
        pytest.param(lambda: ([odd(value=None)], []), id="no-value"),
    ],
)
async def test_what_cannot_be_kept_is_refused_whole(box: Box, make: Callable[[], Any]) -> None:
    bad_records, changes = make()
    with pytest.raises(BadRequestError):
        await box.log.append([record("telemetry", "a", "good"), *bad_records], changes)
    (position,) = await box.log.append([record("telemetry", "a", "next")])
    assert position.offset == 1
    assert not box.failures
    assert await box.log.rows("t") == {}


def odd(**fields: Any) -> NewRecord:
    return NewRecord(**{"topic": "telemetry", "key": b"a", "value": b"v", **fields})


async def test_a_record_that_a_listener_gets_wrong_leaves_nothing_behind(box: Box) -> None:
    partition = box.log.partitions("telemetry")[0]
    with pytest.raises(TypeError):
        partition.append(box.log.now_ms(), b"a", "text", [])  # type: ignore[arg-type]
    (position,) = await box.log.append([record("telemetry", "a", "next")])
    assert position.offset == 1
    await box.log.close()
    assert (await box.recovered())["telemetry", 0] == [(0, b"first"), (1, b"next")]


async def test_a_closed_log_refuses(box: Box) -> None:
    await box.log.close()
    await box.log.close()
    for call in (box.log.append([record("telemetry", "a", "v")]), box.log.roll("telemetry", "x")):
        with pytest.raises(UnavailableError, match="closed"):
            await call
    with pytest.raises(UnavailableError, match="closed"):
        await box.log.create_topic("other")
