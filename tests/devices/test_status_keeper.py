"""Snapshots are whole or not at all, whatever happens to the disk or the process."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from devices.status_keeper import INTERVAL_MS, MAX_WRITE_BYTES_PER_S, SNAPSHOT_NAME, StatusKeeper
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.conftest import wait_until
from tests.devices.status_box import StatusBox
from tests.devices.test_status_snapshot import comparable, rebuilt, traffic

DATA = Path("/data")
SNAPSHOT = DATA / "state" / SNAPSHOT_NAME


def keeper_of(box: StatusBox) -> StatusKeeper:
    assert box.keeper is not None
    return box.keeper


@pytest.mark.parametrize("power_cut", [False, True])
def test_stopped_at_any_call_the_old_snapshot_or_the_new_one_is_there(power_cut: bool) -> None:
    random_ = random.Random(3)
    disk = MemoryDisk()
    box = StatusBox(DATA, storage=disk)
    traffic(box, random_, 200)
    box.step()
    assert keeper_of(box).write()
    stopped = 0
    while True:
        traffic(box, random_, 5)
        box.step()
        disk.stop_at = disk.calls + stopped + 1
        if keeper_of(box).write():
            break  # it needs no more calls than that
        stopped += 1
        disk.revive(power_cut=random_ if power_cut else None)
        box.begin()  # killed
        assert comparable(box) == rebuilt(box)
        assert keeper_of(box).failures == 0
        assert box.view.fed_records < 200  # it did begin with a snapshot
    assert stopped >= 8


def test_a_disk_that_takes_nothing_is_told_and_tried_again() -> None:
    disk = MemoryDisk()
    box = StatusBox(DATA, storage=disk)
    box.log.reading("d")
    box.step()

    def full(operation: str, _path: Path) -> None:
        if operation == "write":
            raise OSError(errno.ENOSPC, "no space left")

    disk.before = full
    assert not keeper_of(box).write()
    assert (keeper_of(box).failures, keeper_of(box).snapshots) == (1, 0)
    assert not [path for path in disk._names if path.parent == SNAPSHOT.parent]
    disk.before = None
    assert keeper_of(box).write()
    assert keeper_of(box).size_bytes == len(disk.content(SNAPSHOT))


def test_a_snapshot_that_cannot_be_read_is_left_where_it_is() -> None:
    disk = MemoryDisk()
    box = StatusBox(DATA, storage=disk)
    box.log.reading("d")
    box.restart()
    box.step()
    box.stop()
    box.begin()

    def unreadable(operation: str, _path: Path) -> None:
        if operation == "read":
            raise OSError(errno.EIO, "input/output error")

    disk.before = unreadable
    assert box.status("d").messages == 1
    assert keeper_of(box).failures == 1
    assert SNAPSHOT in disk._names


def test_the_thread_writes_when_a_minute_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.status_keeper._LOOK_S", 0.001)
    disk = MemoryDisk()
    box = StatusBox(DATA, storage=disk)
    box.log.reading("d")
    box.step()
    keeper_of(box).start()
    try:
        box.after(INTERVAL_MS - 1)
        assert keeper_of(box).snapshots == 0
        box.after(1)
        wait_until(lambda: keeper_of(box).snapshots == 1, describe="a snapshot")
    finally:
        box.stop()
    assert keeper_of(box).snapshots == 1  # nothing new at the stop


def test_a_large_snapshot_comes_less_often() -> None:
    disk = MemoryDisk()
    box = StatusBox(DATA, storage=disk)
    box.log.reading("d")
    box.step()
    keeper = keeper_of(box)
    assert keeper.write()
    assert keeper._pause_ms == INTERVAL_MS
    write = keeper._write
    keeper._write = lambda pause_s: write(pause_s) + 10 * 60 * MAX_WRITE_BYTES_PER_S
    box.log.reading("d")
    box.step()
    assert keeper.write()
    assert keeper._pause_ms >= 10 * INTERVAL_MS
