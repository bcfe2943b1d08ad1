"""A full disk is a state: refused at the mark, finished from the reserve, waited out, resumed by itself."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from commitlog import space as space_module
from commitlog.base import TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.space import RESERVE_NAME, DiskState, Space
from commitlog.storage import LOG_DIR, SystemStorage
from core.errors import UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import Failures, RecordingWaiter, log_settings, open_log, read_all, record
from tests.conftest import wait_until_async

pytestmark = pytest.mark.timeout(30)

MB = 1 << 20
LOG = Path("/data/log")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "WAIT_S", 0.01)


# -- the state alone


def some_space(capacity_bytes: int) -> tuple[MemoryDisk, Space, list[DiskState]]:
    disk = MemoryDisk()
    disk.make_dir(LOG)
    disk.capacity_bytes = capacity_bytes
    space = Space(disk, LOG, reserve_bytes=2 * MB, mark_bytes=3 * MB)
    changes: list[DiskState] = []
    space.on_change = changes.append
    return disk, space, changes


def fill(disk: MemoryDisk, leave_bytes: int) -> None:
    """Somebody else's file grows or shrinks until so much is free."""
    file = disk.open(LOG.parent / "other", create=True)
    file.truncate(max(0, file.size() + disk.free_bytes(LOG) - leave_bytes))


def test_the_reserve_is_made_where_the_mark_stays_free() -> None:
    disk, space, changes = some_space(5 * MB)
    state = space.look()
    assert not state.full
    assert (state.free_bytes, state.reserve_bytes) == (3 * MB, 2 * MB)
    assert RESERVE_NAME in disk.names(LOG)
    assert not changes


def test_too_little_for_mark_and_reserve_is_full_from_the_start() -> None:
    _, space, changes = some_space(5 * MB - 1)
    state = space.look()
    assert state.full
    assert (state.reserve_bytes, state.needed_bytes) == (0, 5 * MB)
    assert changes == [state]


def test_below_the_mark_is_full_and_resumes_when_mark_and_reserve_are_free() -> None:
    disk, space, changes = some_space(20 * MB)
    space.look()
    fill(disk, 3 * MB)
    assert not space.look().full
    fill(disk, 3 * MB - 1)
    assert space.look().full
    assert space.state.reserve_bytes == 2 * MB, "the mark alone does not cost the reserve"
    fill(disk, 5 * MB - 1)
    assert space.look().full
    fill(disk, 5 * MB)
    assert not space.look().full
    assert [state.full for state in changes] == [True, False]


def test_a_write_without_space_gets_the_reserve_and_later_waits() -> None:
    disk, space, _ = some_space(20 * MB)
    space.look()
    fill(disk, 0)
    waits: list[int] = []
    space.on_wait = lambda: (waits.append(disk.free_bytes(LOG)), fill(disk, 12 * MB))[0]
    file = disk.open(LOG / "segment", create=True)
    space.retried(lambda: file.write(bytes(MB), 0))
    assert space.state.full
    assert not waits
    assert RESERVE_NAME not in disk.names(LOG)
    space.retried(lambda: file.write(bytes(3 * MB), MB))
    assert waits == [0], "torn at the end of the disk, then waited, then written whole"
    assert file.size() == 4 * MB
    assert not space.look().full
    assert RESERVE_NAME in disk.names(LOG), "made again before readings are accepted"


def test_a_reserve_of_the_last_run_counts_as_there() -> None:
    disk, space, _ = some_space(20 * MB)
    space.look()
    fill(disk, 3 * MB)
    again = Space(disk, LOG, reserve_bytes=2 * MB, mark_bytes=3 * MB)
    assert not again.look().full
    assert again.state.reserve_bytes == 2 * MB


def test_a_quota_that_statvfs_does_not_show_is_full_until_the_reserve_can_be_made() -> None:
    disk, space, _ = some_space(20 * MB)
    space.look()

    def over_quota(called: str, path: Path) -> None:
        if called in ("write", "allocate"):
            raise OSError(errno.EDQUOT, "disk quota exceeded")

    disk.before = over_quota
    file = disk.open(LOG / "segment", create=True)
    with pytest.raises(OSError, match="quota"):
        space.retried(lambda: file.write(b"x", 0), wait=False)
    assert space.look().full, "plenty is free, and yet"
    disk.before = None
    assert not space.look().full


def test_given_up_nobody_waits() -> None:
    disk, space, _ = some_space(MB)
    fill(disk, 0)
    space.give_up()
    file = disk.open(LOG / "segment", create=True)
    with pytest.raises(OSError, match="no space"):
        space.retried(lambda: file.write(b"x", 0))


def test_other_errors_pass_at_once() -> None:
    disk, space, _ = some_space(20 * MB)
    space.look()

    def broken(called: str, path: Path) -> None:
        if called == "write":
            raise OSError(errno.EIO, "input/output error")

    disk.before = broken
    file = disk.open(LOG / "segment", create=True)
    with pytest.raises(OSError, match="input/output"):
        space.retried(lambda: file.write(b"x", 0))
    assert not space.state.full


def test_a_real_reserve_is_really_allocated(tmp_path: Path) -> None:
    space = Space(SystemStorage(), tmp_path, reserve_bytes=MB, mark_bytes=0)
    space.look()
    found = (tmp_path / RESERVE_NAME).stat()
    assert found.st_size == MB
    assert found.st_blocks * 512 >= MB


# -- the log on such a disk


class Box:
    def __init__(self, log: EmbeddedLog, disk: MemoryDisk, failures: Failures, data_dir: Path) -> None:
        self.log = log
        self.disk = disk
        self.failures = failures
        self.data_dir = data_dir
        self.changes: list[bool] = []
        log.watch_full(self.changes.append)
        self.acked: list[bytes] = []

    async def append(self, value: bytes) -> None:
        await self.log.append([record("telemetry", "a", value)])
        self.acked.append(value)

    async def until_full(self) -> None:
        """Append as a listener would that has not heard yet."""
        for number in range(2_000):
            await self.append(b"%04d" % number + bytes(range(256)) * 40)
            if self.log.full:
                return
        pytest.fail("the disk took everything")

    def free(self, free_bytes: int) -> None:
        fill_data(self.disk, self.data_dir, free_bytes)

    def found(self) -> list[bytes]:
        return [value for _, value in read_all(self.data_dir, self.disk).get(("telemetry", 0), [])]


def fill_data(disk: MemoryDisk, data_dir: Path, leave_bytes: int) -> None:
    file = disk.open(data_dir / "other", create=True)
    file.truncate(max(0, file.size() + disk.free_bytes(data_dir) - leave_bytes))


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    disk, failures = MemoryDisk(), Failures()
    disk.capacity_bytes = 64 * MB
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 1)
    yield Box(log, disk, failures, tmp_path)
    disk.before = None
    await log.close()


async def test_at_the_mark_readings_are_refused_and_table_changes_go_on(box: Box) -> None:
    await box.append(b"first")
    box.free(MB - 1)
    await wait_until_async(lambda: box.log.full, describe="full")
    with pytest.raises(UnavailableError, match="disk is full: 0 MB are free, 2 MB have to be"):
        await box.append(b"second")
    await box.log.append([], [TableChange(table="exports", key="k", value=1)])
    window = await box.log.roll("telemetry", "test")
    assert window is not None
    box.free(8 * MB)
    await wait_until_async(lambda: not box.log.full, describe="resumed")
    await box.append(b"third")
    assert box.changes == [True, False]
    await box.log.close()
    assert box.found() == [b"first", b"third"]
    assert not box.failures


async def test_a_segment_that_finds_no_space_is_finished_from_the_reserve(box: Box) -> None:
    await box.append(b"first")
    box.free(0)
    await box.until_full()
    await box.log.roll(
        "telemetry", "test"
    )  # what was appended last has to be written: now the reserve goes, if not yet
    assert RESERVE_NAME not in box.disk.names(box.data_dir / LOG_DIR)
    box.free(8 * MB)
    await wait_until_async(lambda: not box.log.full, describe="resumed")
    assert RESERVE_NAME in box.disk.names(box.data_dir / LOG_DIR)
    await box.append(b"last")
    await box.log.close()
    assert box.found() == box.acked
    assert not box.failures


async def test_without_any_space_what_was_accepted_waits_in_the_journal(box: Box) -> None:
    await box.append(b"first")
    box.free(0)
    await box.until_full()
    box.free(0)  # somebody took the reserve too
    waiter = RecordingWaiter()
    for number in range(50):  # a listener's commit that was under way
        value = b"late %d " % number + bytes(1000)
        box.log.partitions("telemetry")[0].append(box.log.now_ms(), b"a", value, [])
        box.acked.append(value)
    box.log.appended(50, 51_000, waiter, "token")
    await wait_until_async(lambda: waiter.committed_tokens, describe="acknowledged: the journal has its room")
    box.free(16 * MB)
    await wait_until_async(lambda: not box.log.full, describe="resumed")
    await box.append(b"last")
    await box.log.close()
    assert box.found() == box.acked
    assert not box.failures


@pytest.mark.parametrize("power_cut", [False, True])
async def test_stopped_on_a_disk_without_space_everything_acked_is_found(box: Box, power_cut: bool) -> None:
    import random

    await box.append(b"first")
    box.free(0)
    await box.until_full()
    box.free(0)
    await box.log.close()
    assert not box.failures
    box.disk.revive(power_cut=random.Random(7) if power_cut else None)
    box.disk.capacity_bytes = 128 * MB
    log = await open_log(box.data_dir, storage=box.disk)
    assert box.found() == box.acked
    await log.close()


async def test_it_starts_on_a_full_disk_from_the_reserve_and_resumes(box: Box) -> None:
    for number in range(200):
        await box.append(b"%d" % number + bytes(500))
    box.disk.revive()  # killed: much of it stands in the journal alone
    await box.log.close()
    box.free(0)
    log = await open_log(box.data_dir, storage=box.disk)
    assert log.full
    assert box.found() == box.acked
    with pytest.raises(UnavailableError, match="disk is full"):
        await log.append([record("telemetry", "a", b"x")])
    fill_data(box.disk, box.data_dir, 8 * MB)
    await wait_until_async(lambda: not log.full, describe="resumed")
    await log.append([record("telemetry", "a", b"last")])
    await log.close()
    assert box.found() == [*box.acked, b"last"]


async def test_recovery_without_any_space_waits_and_says_so(box: Box) -> None:
    for number in range(200):
        await box.append(b"%d" % number + bytes(500))
    box.disk.revive()
    await box.log.close()
    box.disk.remove(box.data_dir / LOG_DIR / RESERVE_NAME)
    box.free(0)
    waits: list[Any] = []

    def room() -> None:
        waits.append(box.disk.free_bytes(box.data_dir))
        box.free(8 * MB)

    log = await EmbeddedLog.open(
        box.data_dir,
        log_settings(),
        clock=box.log._engine.clock,
        storage=box.disk,
        on_failure=box.failures,
        on_wait=room,
    )
    assert waits == [0]
    assert box.found() == box.acked
    await log.close()


async def test_a_failed_sync_without_space_is_not_retried(box: Box) -> None:
    await box.append(b"first")
    syncs: list[Path] = []

    def before(called: str, path: Path) -> None:
        if called == "sync" and path.suffix == ".log":
            syncs.append(path)
            raise OSError(errno.ENOSPC, "no space left on device")

    box.disk.before = before
    with pytest.raises(UnavailableError):
        await box.log.roll("telemetry", "test")
    assert len(syncs) == 1
    assert [type(one) for one in box.failures] == [OSError]
