"""The report of recovery: no cut is forgotten, whenever the process dies, and the file stays small."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from commitlog.report import MAX_CUTS, MAX_LEFT_OUT, Cut, RecoveryReport, keep_report, read_report
from commitlog.storage import LOG_DIR
from tests.commitlog.commitlog_disk import DiskStoppedError, MemoryDisk
from tests.commitlog.log_support import open_log, opened
from tests.commitlog.test_log_damage import entry_places, in_journal_only
from tests.commitlog.test_log_durability import LoseAll, weak_log

LOG = Path("/log")


async def a_damaged_entry(data_dir: Path) -> MemoryDisk:
    disk = MemoryDisk()
    await in_journal_only(data_dir, disk, 4)
    disk.content(data_dir / LOG_DIR / "journal")[entry_places(disk, data_dir)[1] + 30] ^= 1
    return disk


async def a_weaker_level(data_dir: Path) -> MemoryDisk:
    disk = MemoryDisk()
    log = await weak_log(data_dir, disk, "os", unsynced_records=100)
    disk.stop_at = disk.calls
    await log.close()
    disk.revive(power_cut=LoseAll())
    return disk


def told(disk: MemoryDisk, data_dir: Path) -> list[tuple[str, int, int]]:
    kept = read_report(disk, data_dir / LOG_DIR)
    assert kept is not None
    return sorted((cut.topic, cut.first, cut.next) for cut in (*kept.cuts, *kept.earlier))


@pytest.mark.parametrize(
    ("prepare", "power_cuts"),
    [
        pytest.param(a_damaged_entry, False, id="damage"),  # a power cut of this disk would undo the flipped bit
        pytest.param(a_weaker_level, True, id="left-out"),
    ],
)
async def test_a_start_that_dies_at_any_call_takes_nothing_it_knew_with_it(
    tmp_path: Path, prepare: Callable[[Path], Awaitable[MemoryDisk]], *, power_cuts: bool
) -> None:
    disk = await prepare(tmp_path)
    before = disk.calls
    log = await open_log(tmp_path, storage=disk)
    total, expected = disk.calls - before, told(disk, tmp_path)
    await log.close()
    assert expected
    for at in range(1, total):
        disk = await prepare(tmp_path)
        disk.stop_at = disk.calls + at
        with contextlib.suppress(DiskStoppedError):
            log = await open_log(tmp_path, storage=disk)
            await log.close()
        disk.revive(power_cut=random.Random(at) if power_cuts and at % 2 else None)
        async with opened(tmp_path, storage=disk):
            pass
        assert told(disk, tmp_path) == expected, f"died at call {at} of {total}"


def cut(first: int, reason: str) -> Cut:
    return Cut(topic="telemetry", partition=0, first=first, next=first + 1, reason=reason)


def test_the_newest_of_each_kind_are_kept() -> None:
    disk = MemoryDisk()
    disk.make_dir(LOG)
    for start in range(3):
        many = [cut(start * 100_000 + n, "left out: for a test") for n in range(MAX_LEFT_OUT // 2)]
        damaged = [cut(start * 100_000 + 50_000 + n, "damaged") for n in range(MAX_CUTS // 2)]
        keep_report(disk, LOG, RecoveryReport(cuts=[*damaged, *many]), newest_record_ms=0)
    kept = read_report(disk, LOG)
    assert kept is not None
    assert len(kept.cuts) == MAX_LEFT_OUT // 2 + MAX_CUTS // 2
    assert len(kept.earlier) == MAX_LEFT_OUT + MAX_CUTS
    keep_report(disk, LOG, RecoveryReport(), newest_record_ms=0)
    kept = read_report(disk, LOG)
    assert kept is not None
    assert len(kept.earlier) == MAX_LEFT_OUT + MAX_CUTS
    assert min(one.first for one in kept.earlier) == 100_000, "the oldest start's are gone"
