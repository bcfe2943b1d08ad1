"""Recovery from files that are damaged, cut or gone: it always starts, and says what it could not keep."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import Gap, TableChange
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.metadata import METADATA_NAME
from commitlog.reader import FileLogReader
from commitlog.storage import LOG_DIR, partition_dir_name
from core.errors import UnavailableError
from tests.commitlog.commitlog_disk import DiskStoppedError, MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened, read_all, record, some_value
from tests.log_fakes import FakeClock


async def fill(data_dir: Path, disk: MemoryDisk, seed: int = 1, *, appends: int = 30) -> None:
    """A log with records in segments and in the journal, tables and a window; killed while open."""
    rng = random.Random(seed)
    log = await open_log(data_dir, storage=disk)
    await log.create_topic("telemetry", 2)
    for number in range(appends):
        change = TableChange(table="state", key=f"k{number % 5}", value=number)
        await log.append([record("telemetry", f"d{number % 4}", b"%04d" % number + some_value(rng))], [change])
        if number == appends // 2:
            await log.roll("telemetry", "test")
    disk.stop_at = 0
    await log.close()
    disk.revive()


def log_path(data_dir: Path, name: str) -> Path:
    return data_dir / LOG_DIR / name


async def test_a_clean_stop_replays_nothing(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    for _ in range(2):
        async with opened(tmp_path, storage=disk):
            pass
    log = await open_log(tmp_path, storage=disk)
    assert (log.report.clean, log.report.entries_replayed, log.report.cuts) == (True, 0, [])
    await log.close()


async def test_a_kill_bumps_the_leader_epoch_and_a_clean_stop_does_not(tmp_path: Path) -> None:
    disk = MemoryDisk()
    epochs = []
    for kill in (False, False, True, True, False):
        log = await open_log(tmp_path, storage=disk)
        checkpoint = read_checkpoint(disk, tmp_path / LOG_DIR)
        assert checkpoint is not None
        epochs.append(checkpoint.leader_epoch)
        disk.stop_at = 0 if kill else None
        await log.close()
        disk.revive()
    assert epochs == [0, 0, 0, 1, 2]


async def test_dying_at_every_call_of_recovery_ends_in_the_same_log(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk, appends=12)
    calls = disk.calls
    log = await open_log(tmp_path, storage=disk)
    expected = read_all(tmp_path, disk), await log.rows("state"), await log.rows("windows")
    disk.stop_at = 0
    await log.close()
    total = disk.calls - calls
    for at in range(1, total, 3):
        disk = MemoryDisk()
        await fill(tmp_path, disk, appends=12)
        disk.stop_at = disk.calls + at
        with contextlib.suppress(DiskStoppedError):
            log = await open_log(tmp_path, storage=disk)
            await log.close()
        disk.revive(power_cut=random.Random(at) if at % 2 else None)
        log = await open_log(tmp_path, storage=disk)
        records, state, windows = read_all(tmp_path, disk), await log.rows("state"), await log.rows("windows")
        assert (records, state) == expected[:2]
        assert [{**row, "topic_id": ""} for row in windows.values()] == [
            {**row, "topic_id": ""} for row in expected[2].values()
        ]
        await log.close()


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
async def test_a_log_closed_in_order_loses_nothing_with_its_checkpoint(tmp_path: Path, how: str) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "v0")], [TableChange(table="state", key="k", value=[1])])
        await log.roll("telemetry", "test")
        await log.append([record("telemetry", "a", "v1")])
    before = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert before is not None
    damage(disk, log_path(tmp_path, CHECKPOINT_NAME), how)
    log = await open_log(tmp_path, storage=disk)
    after = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert after is not None
    assert not log.report.clean
    assert log.report.notes
    assert after.leader_epoch > before.leader_epoch
    assert read_all(tmp_path, disk) == {("telemetry", 0): [(0, b"v0"), (1, b"v1")]}
    assert await log.rows("state") == {"k": [1]}
    (info,) = log.topics()
    assert info.topic_id == before.partitions[0].topic_id.hex()
    window = await log.roll("telemetry", "again")
    assert window is not None
    assert (window.number, window.offsets) == (1, {0: (1, 2)})
    await log.close()


def damage(disk: MemoryDisk, path: Path, how: str) -> None:
    if how == "gone":
        disk.remove(path)
        return
    content = disk.content(path)
    if how == "flipped":
        content[len(content) // 2] ^= 0x10
    else:
        del content[len(content) // 2 if how == "cut" else 0 :]


async def test_offsets_of_a_window_are_not_used_again_when_its_records_are_lost(tmp_path: Path) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    async with opened(tmp_path, storage=disk, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "v")] * 3)
        await log.roll("telemetry", "test")
    directory = log_path(tmp_path, partition_dir_name("telemetry", 0))
    disk.remove(directory / f"{0:020}.log")
    disk.remove(log_path(tmp_path, CHECKPOINT_NAME))
    disk.remove(log_path(tmp_path, "journal"))
    log = await open_log(tmp_path, storage=disk, clock=clock)
    assert [(cut.first, cut.next) for cut in log.report.cuts] == [(0, 3)]
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        await asyncio.sleep(0)  # the heartbeat
        part = reader.read("telemetry", 0, 1)
        assert (part.records, part.next_offset) == ([], 3)
        assert part.gaps == [Gap(first=1, next=3, reason="missing")]
        (position,) = await log.append([record("telemetry", "a", "after")])
        assert position.offset == 3
        await log.roll("telemetry", "flushed")
        part = reader.read("telemetry", 0, 0)
        assert [r.offset for r in part.records] == [3]
        assert [(gap.first, gap.next) for gap in part.gaps] == [(0, 3)]
    await log.close()


async def test_an_active_segment_that_is_gone_is_reported(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "v")] * 3)
    disk.remove(log_path(tmp_path, partition_dir_name("telemetry", 0)) / f"{0:020}.log")
    log = await open_log(tmp_path, storage=disk)
    assert [(cut.topic, cut.partition, cut.first, cut.next) for cut in log.report.cuts] == [("telemetry", 0, 0, 3)]
    (position,) = await log.append([record("telemetry", "a", "after")])
    assert position.offset == 3
    await log.close()


async def test_synced_bytes_that_are_missing_are_reported_and_not_reused(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        for number in range(4):
            await log.append([record("telemetry", "a", f"v{number}")])
            if number == 1:
                await log.roll("telemetry", "the rest goes into a segment of its own")
    segment = log_path(tmp_path, partition_dir_name("telemetry", 0)) / f"{2:020}.log"
    del disk.content(segment)[-1:]
    log = await open_log(tmp_path, storage=disk)
    assert max(cut.next for cut in log.report.cuts) == 4
    (position,) = await log.append([record("telemetry", "a", "after")])
    assert position.offset == 4
    await log.close()


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("how", ["cut", "gone"])
async def test_an_index_is_made_again(tmp_path: Path, suffix: str, how: str) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    settings = log_settings(segment_size="16MB")
    async with opened(tmp_path, storage=disk, settings=settings, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        for number in range(40):
            clock.now_ms += 1000
            await log.append([record("telemetry", "a", random.Random(number).randbytes(1000))])
            await log.create_topic(f"t{number}", 1)  # the segment thread has written what came before
    path = log_path(tmp_path, partition_dir_name("telemetry", 0)) / f"{0:020}{suffix}"
    good = bytes(disk.content(path))
    assert good
    damage(disk, path, how)
    async with opened(tmp_path, storage=disk, settings=settings, clock=clock) as log:
        assert not log.report.cuts
        assert bytes(disk.content(path))[: len(good)] == good


async def test_a_lost_journal_is_reported(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    disk.remove(log_path(tmp_path, "journal"))
    log = await open_log(tmp_path, storage=disk)
    assert any("journal is missing" in note for note in log.report.notes)
    await log.close()


async def test_a_lost_table_snapshot_is_reported(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    for name in disk.names(log_path(tmp_path, "tables")):
        if name.startswith("state"):
            disk.content(log_path(tmp_path, "tables") / name)[-1] ^= 1
    log = await open_log(tmp_path, storage=disk)
    assert any("'state' is lost" in note for note in log.report.notes)
    await log.close()


async def test_a_topic_half_made_is_completed_with_all_its_partitions(tmp_path: Path) -> None:
    """The disk stops at each call of `create_topic` in turn: afterwards the topic is whole, or not there at all."""
    seen = set()
    for at in range(1, 40):
        disk = MemoryDisk()
        log = await open_log(tmp_path, storage=disk)
        await log.drain()
        disk.stop_at = disk.calls + at
        with contextlib.suppress(UnavailableError):
            await log.create_topic("telemetry", 3)
        await log.close()
        disk.revive(power_cut=random.Random(at) if at % 2 else None)
        log = await open_log(tmp_path, storage=disk)
        seen.add(tuple(info.partitions for info in log.topics()))
        await log.close()
    assert seen == {(), (3,)}


async def test_leftovers_of_interrupted_writes_are_removed(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    strays = [
        log_path(tmp_path, "checkpoint.tmp"),
        log_path(tmp_path, "tables") / f"state-{99:020}.snapshot",
        log_path(tmp_path, partition_dir_name("telemetry", 0)) / f"{METADATA_NAME}.tmp",
    ]
    for stray in strays:
        disk.open(stray, create=True).write(b"stray", 0)
    async with opened(tmp_path, storage=disk):
        for stray in strays:
            with pytest.raises(FileNotFoundError):
                disk.open(stray)


async def test_a_topic_id_survives_a_lost_metadata_file(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    disk.remove(log_path(tmp_path, partition_dir_name("telemetry", 0)) / METADATA_NAME)
    before = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert before is not None
    async with opened(tmp_path, storage=disk) as log:
        assert {info.topic_id for info in log.topics()} == {point.topic_id.hex() for point in before.partitions}


async def test_the_journal_may_change_its_size_between_starts(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await fill(tmp_path, disk)
    for number, size in enumerate(("8MB", "4MB", "5MB")):
        log = await open_log(tmp_path, storage=disk, settings=log_settings(journal_size=size))
        assert sum(map(len, read_all(tmp_path, disk).values())) == 30 + number
        await log.append([record("telemetry", "a", "only in the journal")])
        disk.stop_at = 0
        await log.close()
        disk.revive()
