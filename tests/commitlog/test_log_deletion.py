"""Deleting segments: whole ones, from the old end, under readers, with a crash at every call."""

from __future__ import annotations

import contextlib
import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import Gap
from commitlog.checkpoint import CHECKPOINT_NAME
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR
from core.errors import NotFoundError, UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import open_log, opened, record
from tests.log_fakes import FakeClock


def partition(data_dir: Path) -> Path:
    return data_dir / LOG_DIR / "telemetry-0"


async def windows_of_two(log: EmbeddedLog, count: int) -> None:
    """Segments at the offsets 0, 2, 4 and so on, all closed."""
    await log.create_topic("telemetry", 1)
    for number in range(count):
        await log.append([record("telemetry", None, f"a{number}"), record("telemetry", None, f"b{number}")])
        await log.roll("telemetry", "test")


@pytest.mark.parametrize(("before", "start"), [(0, 0), (1, 0), (2, 2), (3, 2), (7, 6), (8, 8), (10, 8), (10**9, 8)])
async def test_segments_that_end_before_the_offset_go_and_the_newest_stays(
    tmp_path: Path, before: int, start: int
) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await windows_of_two(log, 5)
        assert await log.delete_segments("telemetry", 0, before, "test") == start
        assert base_offsets(disk, partition(tmp_path)) == list(range(start, 10, 2))
        with closing(FileLogReader(tmp_path, storage=disk, clock=FakeClock())) as reader:
            part = reader.read("telemetry", 0, 0)
            assert [one.offset for one in part.records] == list(range(start, 10))
            assert list(part.gaps) == ([Gap(first=0, next=start, reason="expired")] if start else [])
    assert not [name for name in disk.names(partition(tmp_path)) if name.endswith(".deleted")]
    async with opened(tmp_path, storage=disk) as log:
        assert log.report.clean
        (position,) = await log.append([record("telemetry", None, "after")])
        assert position.offset == 10


async def test_a_reader_reads_on_in_a_segment_that_is_deleted_under_it(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as log:
        await windows_of_two(log, 3)
        with closing(FileLogReader(tmp_path, clock=clock)) as reader:
            assert reader.read("telemetry", 0, 0, max_bytes=1).next_offset == 2
            cursor = reader._files("telemetry", 0)._cursor
            assert cursor is not None
            await log.delete_segments("telemetry", 0, 4, "test")
            log._engine.segment_thread.submit(log._engine.segments.checkpoint_if_due)
            await log._engine.segment_thread.run(lambda: None)
            assert sorted(path.name[:20] for path in partition(tmp_path).glob("*.log*")) == [f"{4:020}"]
            assert len(cursor.file.read(61, 0)) == 61
            part = reader.read("telemetry", 0, 2)
            assert list(part.gaps) == [Gap(first=2, next=4, reason="expired")]
            assert [one.offset for one in part.records] == [4, 5]


async def test_what_expires_between_look_and_read_is_expired_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as log:
        await windows_of_two(log, 3)
        with closing(FileLogReader(tmp_path, clock=clock)) as reader:
            looked = [reader._watermark("telemetry", 0)]
            now = reader._watermark
            monkeypatch.setattr(reader, "_watermark", lambda *at: looked.pop() if looked else now(*at))
            await log.delete_segments("telemetry", 0, 4, "test")
            part = reader.read("telemetry", 0, 0)
            assert list(part.gaps) == [Gap(first=0, next=4, reason="expired")]


async def test_dying_at_every_call_of_a_deletion_loses_no_other_record(tmp_path: Path) -> None:
    starts = set()
    for at in range(1, 60, 2):
        disk, clock = MemoryDisk(), FakeClock()
        log = await open_log(tmp_path, storage=disk, clock=clock)
        await windows_of_two(log, 5)
        await log.drain()
        disk.stop_at = disk.calls + at
        with contextlib.suppress(UnavailableError):
            await log.delete_segments("telemetry", 0, 6, "test")
        await log.close()
        disk.revive(power_cut=random.Random(at) if at % 4 == 1 else None)
        log = await open_log(tmp_path, storage=disk, clock=clock)
        assert not log.report.cuts
        with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
            start = reader.watermarks("telemetry")[0].start
            part = reader.read("telemetry", 0, start)
            assert [one.offset for one in part.records] == list(range(start, 10))
            assert not part.gaps
        assert base_offsets(disk, partition(tmp_path)) == list(range(start, 10, 2))
        assert not [name for name in disk.names(partition(tmp_path)) if name.endswith(".deleted")]
        starts.add(start)
        await log.close()
    assert starts == {0, 6}


async def test_without_a_checkpoint_the_log_starts_at_its_oldest_segment(tmp_path: Path) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await windows_of_two(log, 5)
        await log.delete_segments("telemetry", 0, 100, "test")
    disk.remove(tmp_path / LOG_DIR / CHECKPOINT_NAME)
    async with opened(tmp_path, storage=disk) as log:
        assert not log.report.cuts
        (position,) = await log.append([record("telemetry", None, "after")])
        assert position.offset == 10


async def test_only_a_partition_there_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 1)
        assert await log.delete_segments("telemetry", 0, 5, "nothing is there yet") == 0
        with pytest.raises(NotFoundError):
            await log.delete_segments("telemetry", 1, 0, "test")
        with pytest.raises(NotFoundError):
            await log.delete_segments("elsewhere", 0, 0, "test")
